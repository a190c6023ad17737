"""Render the report for people: Markdown, and one HTML file that opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slipway.core.files import new_folder, write_bytes, write_json, write_text
from slipway.core.i18n import current_language
from slipway.demo.context import DemoContext
from slipway.demo.report.charts import loss_png, quants_png
from slipway.demo.report.content import build_report
from slipway.jobs.pipeline import StageRecord

FILES = ("report.json", "report.md", "report.html", "loss.png", "quants.png")


def write_report(
    folder: Path, context: DemoContext, records: Sequence[StageRecord]
) -> dict[str, Any]:
    """Write the report's files into `folder` (made if needed; other files there stay)."""
    report = build_report(context, records)
    pictures = {"loss": loss_png(report), "quants": quants_png(report)}
    with new_folder(context.folder / "report.new") as build:
        write_json(build / "report.json", report)
        write_text(build / "report.md", render("report.md.j2", report))
        write_text(
            build / "report.html",
            render(
                "report.html.j2",
                report,
                pictures={k: base64.b64encode(v).decode("ascii") for k, v in pictures.items()},
            ),
        )
        for name, data in pictures.items():
            write_bytes(build / f"{name}.png", data)
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        source = context.folder / "report.new" / name
        write_bytes(folder / name, source.read_bytes())
    return report


def render(template: str, report: dict[str, Any], **more: Any) -> str:
    """Fill a template of this package with the report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("slipway.demo.report", "templates"),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["mb"] = lambda value: f"{value / 1e6:.1f}"
    environment.filters["gb"] = lambda value: f"{value / 2**30:.2f}"
    environment.filters["n"] = number
    words = WORDS[current_language()]
    rows = [(words["unquantised"], report["unquantised"])] if report["unquantised"] else []
    rows += report["quants"].items()
    return environment.get_template(template).render(r=report, w=words, rows=rows, **more)


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


# The report's own words, by the template's key.
WORDS: dict[str, dict[str, str]] = {
    "en": {
        "lang": "en",
        "steps": "steps",
        "order_note": "more bits diverge more here. The starter's weights come from a 4-bit grid; "
        "after a short training, some 5-bit tensors fall back to it. Train longer.",
        "rows_note": "Files before and after quantising answer the same rows, half of those that "
        "base and tuned answer: compare chrF and ROUGE-L within this table.",
        "split": "split",
        "rows": "rows",
        "multi_turn": "multi-turn",
        "learned": "learnt tokens",
        "longest": "longest row",
        "title": "From data to a served model",
        "summary": "What changed",
        "row": "model",
        "eval_loss": "held-out loss",
        "ppl": "perplexity",
        "size": "size MB",
        "bpw": "bits/weight",
        "top1": "top-1 agreement",
        "pp": "prompt tok/s",
        "tg": "decode tok/s",
        "rss": "peak MiB",
        "load": "load s",
        "base": "base",
        "tuned": "tuned",
        "unquantised": "tuned GGUF",
        "quants": "Quantised models",
        "curves": "Training",
        "samples": "Same question, every model",
        "question": "question",
        "reference": "reference",
        "gateway": "Through the gateway",
        "cost": "cost (millionths)",
        "data": "Data",
        "stages": "Time per stage",
        "stage": "stage",
        "seconds": "seconds",
        "cached": "from an earlier run",
        "lineage": "Lineage",
        "kind": "kind",
        "name": "name",
        "digest": "digest",
        "environment": "Environment",
        "less": "lower than the base's",
        "note": "Prices are invented for this demo. Times are of this machine.",
    },
    "zh": {
        "lang": "zh-CN",
        "steps": "步",
        "order_note": "此处比特更多反而偏离更大：入门模型的权重来自 4 比特网格，"
        "训练太短时部分 5 比特张量会退回该网格。请延长训练。",
        "rows_note": "本表各文件回答相同的行（基座与微调后所答行的一半），"
        "chrF 与 ROUGE-L 只宜在表内比较。",
        "split": "划分",
        "rows": "行数",
        "multi_turn": "多轮",
        "learned": "学习的 token",
        "longest": "最长一行",
        "title": "从数据到上线的模型",
        "summary": "变化一览",
        "row": "模型",
        "eval_loss": "留出集损失",
        "ppl": "困惑度",
        "size": "大小 MB",
        "bpw": "每权重比特",
        "top1": "首选词一致率",
        "pp": "预填充 tok/s",
        "tg": "解码 tok/s",
        "rss": "峰值内存 MiB",
        "load": "加载秒数",
        "base": "基座",
        "tuned": "微调后",
        "unquantised": "微调后 GGUF",
        "quants": "量化模型",
        "curves": "训练",
        "samples": "同一问题，各模型的回答",
        "question": "问题",
        "reference": "参考回答",
        "gateway": "经过网关",
        "cost": "费用（百万分之一）",
        "data": "数据",
        "stages": "各阶段耗时",
        "stage": "阶段",
        "seconds": "秒",
        "cached": "沿用上次结果",
        "lineage": "血缘",
        "kind": "类型",
        "name": "名称",
        "digest": "摘要",
        "environment": "环境",
        "less": "（相对基座下降）",
        "note": "价格为演示虚构；耗时为本机实测。",
    },
}
