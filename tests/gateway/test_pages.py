from __future__ import annotations

import re

import httpx
import pytest
from tests.gateway.gateway_for_tests import Gateway

from slipway.gateway.pages import preferred_language


def get(gateway: Gateway, path: str, **headers: str) -> httpx.Response:
    return httpx.get(gateway.url + path, headers=headers, trust_env=False)


def test_the_page_and_everything_it_loads_come_from_here_under_a_strict_policy(
    gateway: Gateway,
) -> None:
    page = get(gateway, "/")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    modules = re.findall(r'from "\./([^"]+)"', get(gateway, "/page/chat.js").text)
    paths = {*loaded, *(f"/page/{name}" for name in modules)}
    assert len(paths) >= 5
    for path in ["/", *sorted(paths)]:
        answer = get(gateway, path)
        assert answer.status_code == 200, path
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert get(gateway, "/page/chat.js").headers["content-type"].startswith("text/javascript")
    # the policy forbids inline script and style, so there must be none
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page.text)


def test_the_key_is_kept_in_the_session_only(gateway: Gateway) -> None:
    script = get(gateway, "/page/chat.js").text
    assert "sessionStorage.setItem(KEY" in script
    assert not re.search(r"localStorage\.setItem\([^)]*key", script, re.IGNORECASE)
    assert "innerHTML" not in script


def test_both_languages_say_the_same_things(gateway: Gateway) -> None:
    text = get(gateway, "/page/strings.js").text
    english, chinese = text.split("  zh: {")
    names = [re.findall(r"^    (\w+):", part, re.MULTILINE) for part in (english, chinese)]
    assert names[0] == names[1] and len(names[0]) > 20
    used = re.findall(r'data-(?:text|label|placeholder)="(\w+)"', get(gateway, "/").text)
    used += re.findall(r'say\("(\w+)"', get(gateway, "/page/chat.js").text)
    assert set(used) <= set(names[0])


def test_files_are_not_sent_again_when_unchanged(gateway: Gateway) -> None:
    tag = get(gateway, "/page/chat.css").headers["etag"]
    again = get(gateway, "/page/chat.css", **{"If-None-Match": tag})
    assert again.status_code == 304 and again.content == b""
    assert get(gateway, "/page/../server.py").status_code == 404


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("de,zh;q=0.5,en;q=0.3", "zh"),
        ("fr", "en"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=x", "en"),
    ],
)
def test_the_readers_language(gateway: Gateway, accept: str, language: str) -> None:
    assert preferred_language(accept) == language
    assert f'<html lang="{language}">' in get(gateway, "/", **{"Accept-Language": accept}).text
