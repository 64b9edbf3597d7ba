"""Keep a stock River pipeline at a tenth of its size while it learns, and print the quality that is kept."""

from river import datasets, feature_extraction, linear_model, metrics, optim, preprocessing

import pruning

events = [({name: str(v) for name, v in x.items()}, y) for x, y in datasets.Phishing()]
model = (
    preprocessing.OneHotEncoder()
    | feature_extraction.PolynomialExtender(degree=2, interaction_only=True)
    | linear_model.LogisticRegression(optim.AdaGrad(0.1))
)
small = pruning.PrunedClassifier(model.clone(), every=50, keep=32)  # the most salient 32 weights stay

for name, each, inside in (("dense", model, model), ("pruned", small, small.model)):
    auc, accuracy = metrics.ROCAUC(), metrics.Accuracy()
    for i, (x, y) in enumerate(events):
        if i >= 900:  # judged on events it has not seen
            auc.update(y, p := each.predict_proba_one(x))
            accuracy.update(y, p[True] > 0.5)
        else:
            each.learn_one(x, y)
    print(f"{name:>6}: {len(inside['LogisticRegression'].weights):3} weights, {auc}, {accuracy}")
