"""What the rewrites could do with each head of a model; `inspect` and `check` tell the user."""

from __future__ import annotations

from onnxshare.analysis.heads.head import Subject
from onnxshare.analysis.results import HeadOffer
from rewrites.base import Options, Rewrite
from rewrites.fc_to_conv import FcToConv
from rewrites.fc_to_gap import FcToGap

_OF_HEADS: tuple[Rewrite, ...] = (FcToConv(), FcToGap())


def judge_heads(subject: Subject) -> list[dict[str, HeadOffer]]:
    """For each head: by rewrite `{exact, params_before, params_after, detail}` or `{refused}`,
    with `nothing_to_do` where that is why."""
    answers: list[dict[str, HeadOffer]] = [{} for _ in subject.heads]
    for rewrite in _OF_HEADS:
        sites = rewrite.sites(subject, Options())
        for answer, site in zip(answers, sites, strict=True):
            if site.refused is not None:
                answer[rewrite.name] = {"refused": site.refused}
                if site.nothing_to_do:
                    answer[rewrite.name]["nothing_to_do"] = True
                continue
            assert site.params_after is not None  # nor is it refused
            answer[rewrite.name] = {
                "exact": site.exact,
                "params_before": site.params_before,
                "params_after": site.params_after,
                "detail": site.detail,
            }
    return answers
