"""The numbers beside the picture, as words."""

from lumigraph.app.viewer.controls import readouts

JOB = {"state": "training", "step": 1500, "steps": 3000, "loss": 0.12345, "splats": 4000}
SHOWN = {"step": 8000, "steps": 8000, "psnr": 31.234, "ssim": 0.9, "splats": 9000, "seconds": 75.0}


def test_a_training_that_is_shown_gives_its_own_numbers():
    told = readouts({**JOB, "steps_per_second": 31.25}, {**SHOWN, "following": True})
    assert told == [
        ("Step", "1,500 of 3,000"),
        ("Loss", "0.1235"),
        ("Splats", "4,000"),
        ("Steps per second", "31.2"),
    ]


def test_an_opened_scene_gives_the_numbers_of_its_run():
    expected = [
        ("Step", "8,000 of 8,000"),
        ("PSNR", "31.23 dB"),
        ("SSIM", "0.9000"),
        ("Splats", "9,000"),
        ("Training time", "1 min 15 s"),
    ]
    assert readouts(JOB, {**SHOWN, "following": False}) == expected
    assert readouts({**JOB, "state": "finished"}, {**SHOWN, "following": True}) == expected
    assert readouts(None, SHOWN) == expected


def test_unknown_numbers_are_left_out():
    assert readouts(None, None) == []
    assert readouts({"state": "loading"}, None) == []
    assert readouts(None, {"step": 0, "splats": 12}) == [("Step", "0"), ("Splats", "12")]
