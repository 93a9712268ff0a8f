"""What the demo prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from llmkit_plugins.demo.act import Act, Outcome, Step
from llmkit_plugins.demo.scene import Scene


class Report:
    """Writes to the terminal; if the output is not a terminal, without bars and colours."""

    def __init__(self) -> None:
        self.console = Console()

    def opening(self, scene: Scene) -> None:
        """Introduce the providers."""
        self.console.print("[bold]llmkit demo[/]: three providers on this machine, real requests\n")
        for name, provider in scene.providers.items():
            self.console.print(f"  {name:8} {provider.url}", highlight=False)
        self.console.print(f"  /metrics {scene.observability.metrics_url}\n", highlight=False)

    @contextmanager
    def progress(self, act: Act) -> Iterator[Step]:
        """A progress bar while *act* plays."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task(act.title, total=None)
            yield lambda done, total: bars.update(bar, completed=done, total=total)

    def outcome(self, act: Act, outcome: Outcome) -> None:
        """Print how *act* ended."""
        mark = "[green]✓[/]" if outcome.good else "[red]✗[/]"
        self.console.print(
            f"{mark} {outcome.told if outcome.good else f'{act.title}: {outcome.told}'}\n", highlight=False
        )
        if outcome.figures:
            heading, *rows = outcome.figures
            table = _table(heading)
            for row in rows:
                table.add_row(*row)
            self.console.print(table)

    def summary(self, scene: Scene) -> None:
        """Print what each provider did: the metrics next to the provider's own counts."""
        heading = ("provider", "answered", "latency", "in", "out", "errors", "their count", "cost")
        table = _table(heading, "Requests and tokens as measured, beside what the providers counted")
        for name, provider in scene.providers.items():
            stats, measured = provider.stats, _Measured(scene.registry, name)
            table.add_row(
                name,
                f"{measured.requests:.0f}",
                f"{measured.mean_seconds * 1000:.0f} ms",
                f"{measured.tokens('input'):.0f}",
                f"{measured.tokens('output'):.0f}",
                f"{measured.errors:.0f}",
                f"{stats.prompt_tokens} + {stats.completion_tokens}",
                f"${stats.cost:.4f}",
            )
        self.console.print(table)

    def staying(self, scene: Scene) -> None:
        """Say that it keeps serving."""
        self.console.print(f"Serving {scene.observability.metrics_url} until you press Ctrl-C.", highlight=False)


def _table(heading: Sequence[str], title: str | None = None) -> Table:
    """Names on the left, figures on the right."""
    first, *others = heading
    columns = [Column(first, no_wrap=True), *[Column(other, justify="right", no_wrap=True) for other in others]]
    return Table(*columns, box=SIMPLE_HEAD, title=title)


class _Measured:
    """What the metrics on *registry* say about one provider."""

    def __init__(self, registry: CollectorRegistry, provider: str) -> None:
        self._samples = [
            sample
            for family in registry.collect()
            for sample in family.samples
            if sample.labels.get("provider") == provider
        ]

    def _sum(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(s.value for s in self._samples if s.name == name and wanted <= s.labels.items())

    @property
    def requests(self) -> float:
        return self._sum("llmkit_request_duration_seconds_count", outcome="ok")

    @property
    def mean_seconds(self) -> float:
        return self._sum("llmkit_request_duration_seconds_sum", outcome="ok") / max(self.requests, 1.0)

    @property
    def errors(self) -> float:
        return self._sum("llmkit_provider_errors_total")

    def tokens(self, direction: str) -> float:
        return self._sum("llmkit_request_tokens_total", direction=direction)
