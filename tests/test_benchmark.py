"""What measures: operations are counted correctly, every piece runs at a small size."""

import benchmark
import growth
import keras
import pytest

from catsdogs.models.convnets import build_textbook_convnet


def test_flops_of_a_convnet_counted_by_hand():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="valid")(inputs)  # 6 x 6 x 4 outputs of 27 products
    x = keras.layers.Conv2D(2, 1, strides=2)(x)  # 3 x 3 x 2 outputs of 4
    assert benchmark.count_flops(keras.Model(inputs, x), 8) == 2 * (36 * 4 * 27 + 9 * 2 * 4)
    assert benchmark.count_flops(build_textbook_convnet(150), 150) > 2e8


@pytest.mark.slow
def test_the_fused_warp_is_five_times_as_fast():
    assert benchmark.measure_augmentation(image_size=150, num_images=320)["ratio"] >= 5


@pytest.mark.slow
def test_growth_measures_every_step():
    found = growth.measure_growth([16])
    assert [row["num_images"] for row in found["rows"]] == [16]
    for row in found["rows"]:
        assert all(row[step]["seconds"] > 0 for step in growth.STEPS)
        # Each process counts its own memory: this one and those with TensorFlow have far more.
        assert 20 < row["decode"]["peak_rss_mb"] < 200 < row["head"]["peak_rss_mb"]


@pytest.mark.slow
def test_the_quick_benchmark_runs(data_dir, vgg16_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # In this process: starting others takes longer than what they measure here.
    monkeypatch.setattr(benchmark, "run_alone", lambda function, *args, **kw: function(*args, **kw))
    found = benchmark.run_benchmark(data_dir, quick=True)
    cold = {name for name, stage in found["stages"].items() if stage["cold"]}
    assert cold == {"fine-tuning, cold", "features, cold, as part of fine-tuning", "scratch"}
    assert all(ratio > 0 for ratio in found["ratios"].values())
    assert not list((tmp_path / "runs").iterdir()) and (data_dir / "train").is_dir()
