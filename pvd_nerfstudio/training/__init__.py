"""What a run needs beside the method: a folder of its own, and an end that leaves it whole."""
