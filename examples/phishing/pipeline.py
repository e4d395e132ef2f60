"""Is this web page phishing? River's Phishing data set, as `driftloop demo phishing` streams it."""

from river import linear_model, optim, preprocessing

from stream import Labels, Pipeline


def build(params):
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(params["learning_rate"]))


pipeline = Pipeline(
    name="phishing",
    task="binary",
    features={
        "empty_server_form_handler": float,
        "popup_window": float,
        "https": float,
        "request_from_other_domain": float,
        "anchor_from_other_domain": float,
        "is_popular": float,
        "long_url": float,
        "age_of_domain": int,
        "ip_in_url": int,
    },
    model=build,
    params={"learning_rate": 0.05},
    labels=Labels(wait="1h"),
)
