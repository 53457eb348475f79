"""``llamagen serve``: the HTTP server."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llamagen_server.cli.model_flags import (
    EPILOG,
    add_model_flags,
    add_size_policy,
    add_vllm_flags,
    open_chosen,
    served_names,
)
from llamagen_server.core import logs
from llamagen_server.core.logs import LOG_FORMATS
from llamagen_server.core.options import EditWithoutMask, Limits, RequestPolicy, ResponseFormat, RestartPolicy

if TYPE_CHECKING:
    from llamagen_server.serving.tls import Tls

EXAMPLE = """example:
  llamagen serve models/t2i-xl --port 8080 --max-num-seqs 64"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our flags and vLLM's."""
    from llamagen_server.serving.http import DRAIN_SECONDS

    add_vllm_flags(parser, add_own_arguments)
    parser.set_defaults(shutdown_timeout=DRAIN_SECONDS)


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our own flags, which ``--help`` shows; imports nothing heavy."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + EXAMPLE
    group = parser.add_argument_group("llamagen-serve")
    add = group.add_argument
    add("--host", default="127.0.0.1", help="address or name to listen on; ::, every address (default: %(default)s)")
    add("--port", type=int, default=8000, help="port to listen on; 0 chooses a free one (default: %(default)s)")
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="requests must carry this key; repeatable; LLAMAGEN_API_KEY adds one more",
    )
    add(
        "--api-key-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="file with one key per line, such as a mounted secret; repeatable; SIGHUP reads it again",
    )
    add(
        "--max-in-flight",
        type=int,
        default=Limits.max_in_flight,
        metavar="N",
        help="limit of unfinished images; requests beyond it get status 429 (default: %(default)s)",
    )
    add(
        "--default-timeout",
        type=float,
        default=Limits.default_timeout,
        metavar="SECONDS",
        help="time for a request that names no timeout; status 504 after it (default: %(default)g)",
    )
    add(
        "--max-timeout",
        type=float,
        default=Limits.max_timeout,
        metavar="SECONDS",
        help="largest timeout that a request may name (default: %(default)g)",
    )
    add(
        "--max-restarts",
        type=int,
        default=RestartPolicy.max_restarts,
        metavar="N",
        help="restarts of the engine within --restart-window, at most; beyond them the server ends; 0: never restart "
        "(default: %(default)s)",
    )
    add(
        "--restart-window",
        type=float,
        default=RestartPolicy.window,
        metavar="SECONDS",
        help="time in which --max-restarts counts (default: %(default)g)",
    )
    add(
        "--hang-timeout",
        type=float,
        default=RestartPolicy.hang_timeout,
        metavar="SECONDS",
        help="time without an answer after which the engine is replaced; longer for slow models (default: %(default)g)",
    )
    _add_cors_flags(group)
    _add_policy_flags(group)
    add(
        "--rollouts",
        action="store_true",
        help="offer POST /rollouts to trainers, and the routes by which they replace the weights for everybody",
    )
    add(
        "--root-path",
        default="",
        metavar="PATH",
        help="path below which a proxy serves this server, such as /images-api",
    )
    add(
        "--forwarded-allow-ips",
        default="127.0.0.1,::1",
        metavar="IPS",
        help="proxies whose X-Forwarded-Proto, -For, -Host and -Prefix are believed: addresses or networks with commas "
        "between them; *: all (default: %(default)s)",
    )
    add(
        "--log-format",
        choices=LOG_FORMATS,
        default="text",
        help="json: one object per line, with the id of the request (default: %(default)s)",
    )
    _add_tls_flags(group)
    add_model_flags(parser, group)


def _add_cors_flags(group: argparse._ArgumentGroup) -> None:
    for flag, metavar, text in (
        ("--allowed-origins", "ORIGIN", "origin whose pages may call the server from a browser, such as "
         "https://example.com; *: all; repeatable, or a list in JSON (default: none)"),
        ("--allowed-methods", "METHOD", "method that those pages may use; repeatable, or a list in JSON (default: *)"),
        ("--allowed-headers", "HEADER", "header that those pages may send; repeatable, or a list in JSON (default: *)"),
    ):  # fmt: skip
        group.add_argument(flag, action="append", default=[], metavar=metavar, help=text)
    group.add_argument(
        "--allow-credentials",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let browsers send cookies and certificates from those pages, for a proxy that asks for them",
    )


def _add_policy_flags(group: argparse._ArgumentGroup) -> None:
    add_size_policy(group)
    group.add_argument(
        "--edit-without-mask",
        choices=get_args(EditWithoutMask),
        default=RequestPolicy.edit_without_mask,
        help="edits of an image of which nothing is masked; whole: generate the whole image anew from the prompt "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--default-response-format",
        choices=get_args(ResponseFormat),
        default=RequestPolicy.response_format,
        help="of OpenAI's API, for requests that name none (default: %(default)s)",
    )


def _add_tls_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--ssl-certfile", type=Path, metavar="FILE", help="certificate in PEM format; the server then speaks HTTPS")
    add("--ssl-keyfile", type=Path, metavar="FILE", help="private key of the certificate, unless that file has it too")
    add("--ssl-keyfile-password", metavar="PASSWORD", help="password of an encrypted key")
    add("--ssl-ca-certs", type=Path, metavar="FILE", help="certificates that must have signed those of clients")
    add(
        "--ssl-cert-reqs",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="whether clients need a certificate: 0 no, 1 optional, 2 required (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Serves until it is stopped.

    Raises:
        ValueError: the model, a flag or the address is wrong.
        EngineStoppedError: the engine did not start, or ended for good.
    """
    from llamagen_server.api.middleware.api_key import Keyring
    from llamagen_server.api.middleware.cors import read_cors
    from llamagen_server.api.middleware.forwarded import check_trusted
    from llamagen_server.api.paths import check_root_path
    from llamagen_server.cli.loading import load_pipeline
    from llamagen_server.serving.http import HttpOptions, serve_http
    from llamagen_server.serving.listener import listen
    from llamagen_server.serving.tracing import start_tracing

    logs.set_up(args.log_format)
    if args.shutdown_timeout < 0:
        raise ValueError(f"--shutdown-timeout is {args.shutdown_timeout}, must be at least 0")
    limits = Limits(args.max_in_flight, args.default_timeout, args.max_timeout)
    restarts = RestartPolicy(args.max_restarts, args.restart_window, args.hang_timeout)
    model = open_chosen(args)
    options = HttpOptions(
        keyring=Keyring.collect(args.api_key, args.api_key_file),
        drain_seconds=args.shutdown_timeout,
        tls=_tls(args),
        cors=read_cors(args.allowed_origins, args.allowed_methods, args.allowed_headers, args.allow_credentials),
        policy=RequestPolicy(args.size_policy, args.edit_without_mask, args.default_response_format),
        root_path=check_root_path(args.root_path),
        trusted_proxies=check_trusted(args.forwarded_allow_ips),
        rollouts=args.rollouts,
    )
    start_tracing(args.otlp_traces_endpoint)
    with listen(args.host, args.port) as listener:
        load = partial(
            load_pipeline,
            model,
            args,
            limits=limits,
            vq_dtype=args.vq_dtype,
            own_process_group=True,
            restarts=restarts,
        )
        serve_http(served_names(args, model), listener, load, options)


def _tls(args: argparse.Namespace) -> Tls | None:
    """Returns the checked TLS files, None without ``--ssl-certfile``."""
    from llamagen_server.serving.tls import Tls

    given = {name: value for name, value in vars(args).items() if name.startswith("ssl_") and value}
    if args.ssl_certfile is None:
        if given:
            raise ValueError(f"--{min(given).replace('_', '-')} is given without --ssl-certfile")
        return None
    tls = Tls(**{name.removeprefix("ssl_"): value for name, value in given.items()})
    tls.check()
    return tls
