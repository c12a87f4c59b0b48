"""The README's table of results, from the rows of the summary."""

__all__ = ["results_table"]

_TITLES = {
    "scratch": "From scratch",
    "feature_extract": "Feature extraction",
    "finetune": "Fine-tuning",
}


def results_table(summary):
    """The README's table: one line a recipe, every seed a link to its evidence.

    Args:
        summary: Rows from `catsdogs.results.summarize`.

    Returns:
        Markdown.
    """
    lines = [
        "| stage | recipe | image | test accuracy | 95 % interval | with mirror image | validation "
        "| minutes, cold | minutes, features cached | peak memory | runs |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        accuracy = row["test_accuracy"]
        low, high = accuracy["interval95"]
        recipe = f"`{row['preset']}` {row['variant']}".replace("_", " ")
        if row["dataset"] != "dogs-vs-cats":
            recipe += f" on {row['dataset']}"
        recipe += "".join(f", {k.replace('_', ' ')} {v}" for k, v in row["settings"].items())
        recipe = recipe.replace("|", "\\|")  # or it would end the cell
        spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.1f}"
        flip = row["flip_accuracy"]
        flip = "" if flip is None else f"{100 * flip:.1f} %"
        links = " ".join(
            f"[{seed}](results/{place}/metrics.json)"
            for seed, place in zip(row["seeds"], row["evidence"], strict=True)
        )
        lines.append(
            f"| {_TITLES[row['stage']]} | {recipe} | {row['image_size']}² "
            f"| **{100 * accuracy['mean']:.1f} %**{spread} | {100 * low:.1f} to {100 * high:.1f} "
            f"| {flip} | {100 * row['val_accuracy']:.1f} % | {_minutes(row['wall_seconds'])} "
            f"| {_minutes(row['warm_wall_seconds'])} | {row['peak_rss_mb'] / 1024:.1f} GiB "
            f"| seed {links} |"
        )
    return "\n".join(lines)


def _minutes(seconds):
    return "" if seconds is None else f"{seconds / 60:.1f}"
