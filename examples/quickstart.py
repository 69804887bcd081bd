"""Steer the bundled model: fit L2S on rows in memory, ask once unsteered and once steered."""

import tempfile
from pathlib import Path

import steersman
from steersman.data.prompts import to_prompt
from steersman.world.rows import Sizes, SplitSizes
from steersman.world.write import write_world

RECIPE = Path(__file__).with_name("world_safety.toml")
SMALL = SplitSizes(fit=270, calibration=9, test=9)


def main() -> None:
    model = steersman.load("bundled")
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), seed=0, sizes=Sizes(safety=SMALL, pope=SMALL, utility=SMALL))
        fit = steersman.load_data(f"{folder}/safety/fit")
        test = steersman.load_data(f"{folder}/safety/test")
        artifact = steersman.fit_policy(model, steersman.read_recipe(RECIPE), fit)
        steersman.save_artifact(artifact, f"{folder}/policy")
        policy = steersman.load_artifact(f"{folder}/policy", model.spec).policy
        prompts = [to_prompt(row) for row in test.rows[:6]]
    plain = model.generate([steersman.Request(p, max_new_tokens=24) for p in prompts])
    steered = model.generate([steersman.Request(p, policy, max_new_tokens=24) for p in prompts])
    for prompt, before, after in zip(prompts, plain, steered, strict=True):
        print(prompt.text)
        print("  unsteered:", before.text)
        print("  steered:  ", after.text)
        for name, trace in after.trace.items():
            print(
                f"  {name}: wrote {trace.tokens_written} tokens, |dh|/|h| {trace.relative_norm:.2f}"
            )


if __name__ == "__main__":
    main()
