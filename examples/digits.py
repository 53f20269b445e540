"""Trains a small neural network on handwritten digits, once for each learning rate, and logs it all with Pulsetrain.

    python examples/digits.py
    python examples/digits.py --learning-rates 0.02 0.1 0.5 --epochs 40 --project digits

The data are the 1,797 images of 8 x 8 pixels that scikit-learn ships; the network is two layers in plain numpy. Look
for `pulsetrain` and `run.` to see all that tracking needs: init, define_metric, log, summary.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import pulsetrain

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 pixels between 0 and 1, and the digit each one shows."""

    train_images: Array
    train_labels: NDArray[np.int64]
    val_images: Array
    val_labels: NDArray[np.int64]


def load(seed: int = 0) -> Digits:
    """The data, shuffled; a fifth of them are kept for validation."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images, labels = data.data[order] / 16.0, data.target[order]
    kept = len(labels) // 5
    return Digits(images[kept:], labels[kept:], images[:kept], labels[:kept])


class Network:
    """64 pixels -> ReLU -> 10 classes, trained by stochastic gradient descent with momentum."""

    def __init__(self, hidden: int, rng: np.random.Generator) -> None:
        self.weights = [
            rng.normal(0, np.sqrt(2 / 64), (64, hidden)),
            np.zeros(hidden),
            rng.normal(0, np.sqrt(2 / hidden), (hidden, 10)),
            np.zeros(10),
        ]
        self.velocity = [np.zeros_like(weight) for weight in self.weights]

    def forward(self, images: Array) -> tuple[Array, Array]:
        """The hidden activations, and for each image the probability of each digit."""
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(images @ w1 + b1, 0)
        logits = hidden @ w2 + b2
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)

    def gradients(
        self, images: Array, labels: NDArray[np.int64], decay: float
    ) -> tuple[float, float, float, list[Array]]:
        """Loss, accuracy, the share of hidden units that are silent, and the gradient of the loss."""
        hidden, probabilities = self.forward(images)
        loss, accuracy = score(probabilities, labels)
        error = probabilities.copy()
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        back = (error @ self.weights[2].T) * (hidden > 0)
        gradients = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        gradients[0] += decay * self.weights[0]
        gradients[2] += decay * self.weights[2]
        return loss, accuracy, float((hidden == 0).mean()), gradients

    def update(self, gradients: list[Array], learning_rate: float, momentum: float) -> float:
        """Takes one step downhill and returns its length."""
        for weight, velocity, gradient in zip(self.weights, self.velocity, gradients, strict=True):
            velocity *= momentum
            velocity -= learning_rate * gradient
            weight += velocity
        return norm(self.velocity)


def score(probabilities: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Cross-entropy and accuracy."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(right + 1e-12).mean()), float((probabilities.argmax(axis=1) == labels).mean())


def norm(arrays: list[Array]) -> float:
    """The Euclidean length of all arrays taken together."""
    return float(np.sqrt(sum(float((array**2).sum()) for array in arrays)))


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The indexes 0..count-1 in random order, `size` at a time."""
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield order[start : start + size]


def train(
    project: str, learning_rate: float, epochs: int, batch_size: int, hidden: int, seed: int
) -> tuple[str, float]:
    """One run. Returns its id and its best validation accuracy."""
    digits = load()
    rng = np.random.default_rng(seed)
    config = {
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
        "hidden": hidden,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "seed": seed,
        "dataset": {"name": "digits", "train": len(digits.train_labels), "val": len(digits.val_labels)},
    }
    # A run is a context: it finishes when the block ends, and is marked as failed when an exception leaves it.
    with pulsetrain.init(project=project, name=f"lr={learning_rate:g}", config=config, tags=["digits", "numpy"]) as run:
        # By default the summary keeps the last value of a metric. These two are better judged by their best, and a name
        # may end in a star: the mean over a whole run tells how fast it learned.
        run.define_metric("val/accuracy", summary="max")
        run.define_metric("val/loss", summary="min")
        run.define_metric("train/*", summary=["last", "mean"])

        network = Network(hidden, rng)
        seen, best_epoch, best_accuracy = 0, 0, 0.0
        for epoch in range(epochs):
            rate = learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
            for chosen in batches(len(digits.train_labels), batch_size, rng):
                began = time.perf_counter()
                loss, accuracy, silent, gradients = network.gradients(
                    digits.train_images[chosen], digits.train_labels[chosen], config["weight_decay"]
                )
                step_length = network.update(gradients, rate, config["momentum"])
                seconds = time.perf_counter() - began
                seen += len(chosen)
                weight_norm = norm(network.weights)
                # One call, one step. It costs a few microseconds, so there is no need to log every n-th step only.
                run.log(
                    {
                        "train/loss": loss,
                        "train/accuracy": accuracy,
                        "epoch": seen / len(digits.train_labels),
                        "learning_rate": rate,
                        "grad_norm": norm(gradients),
                        "weight_norm": weight_norm,
                        "update_ratio": step_length / weight_norm,
                        "silent_units": silent,
                        "step_time": seconds,
                        "examples_per_second": len(chosen) / seconds,
                        "examples_seen": seen,
                    }
                )
            val_loss, val_accuracy = score(network.forward(digits.val_images)[1], digits.val_labels)
            if val_accuracy > best_accuracy:
                best_epoch, best_accuracy = epoch, val_accuracy
            run.log({"val/loss": val_loss, "val/accuracy": val_accuracy, "epoch": epoch + 1})
            if epoch % 10 == 9:
                print(f"{run.name}  epoch {epoch + 1:>3}  val/loss {val_loss:.4f}  val/accuracy {val_accuracy:.4f}")
        run.summary["best_epoch"] = best_epoch
        run.summary["parameters"] = sum(weight.size for weight in network.weights)
        return run.id, best_accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="digits")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0.003, 0.03, 0.3], metavar="RATE")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    results = [
        train(arguments.project, rate, arguments.epochs, arguments.batch_size, arguments.hidden, arguments.seed)
        for rate in arguments.learning_rates
    ]
    for rate, (run_id, accuracy) in zip(arguments.learning_rates, results, strict=True):
        print(f"learning rate {rate:<8g} best validation accuracy {accuracy:.4f}   run {run_id}")


if __name__ == "__main__":
    main()
