"""What others warn of is not shown; what this package warns of is, and what torch says of a GPU."""

import warnings

from pvd_nerfstudio.input.quiet import without_others


def test_deprecations_of_others_are_not_shown_and_ours_are() -> None:
    said = (
        ("custom_fwd is deprecated", FutureWarning, "nerfstudio.field_components.activations"),
        ("jit is deprecated", FutureWarning, "torch.jit._script"),
        ("Using a non-tuple sequence for multidimensional indexing is deprecated and so on", UserWarning, "nerfstudio"),
        ("ours", FutureWarning, "pvd_nerfstudio.student.model"),
        ("CUDA initialization: the driver is too old", UserWarning, "torch.cuda"),
        ("theirs", FutureWarning, "nerfstudio_plugin.model"),
    )
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with without_others():
            for text, category, module in said:
                warnings.warn_explicit(text, category, "file.py", 1, module=module)
        warnings.warn_explicit("afterwards", FutureWarning, "file.py", 1, module="nerfstudio")
    assert [str(one.message).split(":")[0] for one in shown] == ["ours", "CUDA initialization", "theirs", "afterwards"]
