"""Which surface does an image segment show? River's ImageSegments, seven classes."""

from river import forest

from stream import Labels, Pipeline

INTEGERS = ("region-centroid-col", "region-centroid-row")
NUMBERS = (
    "short-line-density-5", "short-line-density-2", "vedge-mean", "vegde-sd", "hedge-mean", "hedge-sd",
    "intensity-mean", "rawred-mean", "rawblue-mean", "rawgreen-mean", "exred-mean", "exblue-mean", "exgreen-mean",
    "value-mean", "saturation-mean", "hue-mean",
)  # fmt: skip


def build(params):
    return forest.ARFClassifier(n_models=5, max_share_to_split=1.0, seed=params["seed"])


pipeline = Pipeline(
    name="segment",
    task="multiclass",
    features={**dict.fromkeys(INTEGERS, int), **dict.fromkeys(NUMBERS, float)},
    model=build,
    labels=Labels(wait="1h", classes=("brickface", "cement", "foliage", "grass", "path", "sky", "window")),
)
