"""The verb that serves.

It imports what it needs when it runs, so that `--help` is quick.
"""

from pathlib import Path
from typing import Annotated

import typer

from steersman.cli.app import DeviceOption, ForceOption, ModelOption, app


@app.command()
def serve(
    policies: Annotated[
        Path, typer.Option(help="A folder of policies, each served by the name of its folder.")
    ],
    model: ModelOption = "bundled",
    engine: Annotated[
        str, typer.Option(help="embedded (this process), or vllm (docs/serve-vllm.md).")
    ] = "embedded",
    host: Annotated[str, typer.Option(help="0.0.0.0 is all networks.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(envvar="STEERSMAN_API_KEY", help="Let in who has it; may be repeated."),
    ] = None,
    admin_key: Annotated[
        list[str] | None,
        typer.Option(envvar="STEERSMAN_ADMIN_KEY", help="May load and unload policies."),
    ] = None,
    default_policy: Annotated[
        str | None, typer.Option(help="Steers requests without the field `steering`.")
    ] = None,
    max_batch: Annotated[int, typer.Option(help="Answers that are made together.")] = 32,
    max_queue: Annotated[int, typer.Option(help="Answers that may wait.")] = 256,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.")] = 20_000_000,
    max_image_pixels: Annotated[
        int, typer.Option(help="Of all images of a request together.")
    ] = 8_000_000,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="Of one prompt; the model's context if not given.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of one answer.")] = 1024,
    timeout: Annotated[float, typer.Option(help="Seconds of a request, waiting included.")] = 300.0,
    grace: Annotated[
        float, typer.Option(help="Seconds in which running answers may end at SIGTERM.")
    ] = 30.0,
    allow_image_hosts: Annotated[
        list[str] | None,
        typer.Option(help="Fetch images from this host, or *.domain; may be repeated."),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.")
    ] = False,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16; if not given, float32 or vLLM's choice."),
    ] = None,
    force: ForceOption = False,
    extra: Annotated[
        list[str] | None, typer.Argument(help="With --engine vllm: arguments of `vllm serve`.")
    ] = None,
) -> None:
    """Serve a model and its policies, each request steered as it asks: OpenAI's API."""
    from steersman.cli.serve import ServeJob, run_serve

    job = ServeJob(
        model, policies, engine, device, dtype, force, tuple(extra or ()),
        {
            "host": host, "port": port, "api_keys": tuple(api_key or ()),
            "admin_keys": tuple(admin_key or ()), "default_policy": default_policy,
            "max_batch": max_batch, "max_queue": max_queue, "max_body": max_body,
            "max_image_pixels": max_image_pixels, "max_prompt_tokens": max_prompt_tokens,
            "max_new_tokens": max_new_tokens, "timeout": timeout, "grace": grace,
            "image_hosts": tuple(allow_image_hosts or ()), "log_prompts": log_prompts,
        },
    )  # fmt: skip
    run_serve(job)
