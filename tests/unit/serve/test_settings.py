"""Limits that make no sense are refused."""

from __future__ import annotations

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError, SettingsError
from llama2vec.serve.settings import ProxySettings, ServeSettings


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="the largest request could never be accepted"):
        load_config(ServeSettings, None, ["max_waiting=3", "max_texts=4"])


@pytest.mark.parametrize(("given", "path"), [("", ""), ("/", ""), ("/docs/", "/docs"), ("/a/b", "/a/b")])
def test_a_root_path_loses_its_last_slash(given: str, path: str) -> None:
    assert ProxySettings(root_path=given).root_path == path


@pytest.mark.parametrize("path", ["docs", "//evil.example", "/a//b", "/a?b", "/a b", "/a%2f", "/a\r\nX: y", "/a#b"])
def test_what_is_not_a_path_is_refused(path: str) -> None:
    with pytest.raises(SettingsError, match="give a path such as /docs-search"):
        ProxySettings(root_path=path)


def test_trusted_proxies_are_addresses_or_networks() -> None:
    proxies = ["127.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"]
    assert ProxySettings(trusted_proxy=proxies).trusted_proxy == proxies
    for wrong in ("*", "proxy.example", "10.0.0.1/8", "300.1.1.1"):
        with pytest.raises(SettingsError, match="is not an IP address or network"):
            ProxySettings(trusted_proxy=["127.0.0.1", wrong])
