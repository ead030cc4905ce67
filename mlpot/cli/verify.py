"""`mlpot verify`; as in `cli`, imports stand inside."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlpot.cli.data import console
from mlpot.cli.options import Device, Dtype
from mlpot.cli.tables import print_certificate

if TYPE_CHECKING:
    from mlpot.certificate.verify import Certificate


def _print_checks(wanted: bool) -> None:
    if not wanted:
        return
    from mlpot.certificate.table import rows

    for row in rows():
        print(f"{row.id:3}  {row.level:5}  {row.sentence}  Bar: {row.bar}.")
    raise typer.Exit


def _say_its_name(wanted: bool) -> bool:
    if wanted:
        console.print("--seal is called --attach now, and does the same", soft_wrap=True)
    return wanted


Attach = Annotated[bool, typer.Option("--attach", help="Store the result in the model's file.")]
Seal = Annotated[bool, typer.Option("--seal", hidden=True, callback=_say_its_name)]  # until version 0.1
ListChecks = Annotated[
    bool, typer.Option("--list", callback=_print_checks, is_eager=True, help="Print all checks and their bars.")
]


def verify(
    model: Annotated[Path | None, typer.Argument(help="Trained potential (*.safetensors).")] = None,
    structures: Annotated[
        Path | None, typer.Option(help="Yours, in any file that ASE reads; otherwise some of the training.")
    ] = None,
    level: Annotated[Literal["quick", "full"], typer.Option(help="A minute, or all there is.")] = "quick",
    long_ps: Annotated[float, typer.Option(min=1.0, help="Length of the long runs of level full, ps.")] = 100.0,
    calculator: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="Judge any ASE calculator instead; its code is run.")
    ] = None,
    elements: Annotated[str | None, typer.Option(help="Of the calculator, such as H,C,O.")] = None,
    attach: Attach = False,
    seal: Seal = False,
    json: Annotated[Path | None, typer.Option(help="Write the certificate, such as verify.json.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page, such as verify.html.")] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    _list: ListChecks = False,
) -> None:
    """Check that a potential obeys physics; exit status 1 if a check fails."""
    from mlpot.atomic_files import check_reports
    from mlpot.certificate.run import certify
    from mlpot.model_file import attach_certificate

    attach = attach or seal
    if (model is None) == (calculator is None) or (attach and model is None):
        raise ValueError("Give either the file of a model or --calculator; --attach needs the file.")
    check_reports(json, html)
    if calculator is not None:
        sys.path.insert(0, "")  # modules of the folder where the user stands
    certificate = certify(
        model,
        structures,
        level=level,
        calculator=calculator,
        elements=elements,
        device=device,
        dtype=dtype,
        long_ps=long_ps,
        tell=(lambda line: print(line, file=sys.stderr)) if level == "full" else (lambda line: None),
    )
    print_certificate(certificate)
    _write(certificate, json, html)
    if attach and model is not None:
        attach_certificate(model, certificate.as_dict())
        console.print(f"Attached to {model}", soft_wrap=True)
    if not certificate.passed:
        raise typer.Exit(1)


def _write(certificate: Certificate, json: Path | None, html: Path | None) -> None:
    from mlpot.html.certificate import write_page

    if json is not None:
        certificate.write(json)
    if html is not None:
        write_page(certificate.as_dict(), html)
