"""The fixtures of the browser test."""

from browser_fixtures import browser, chromium, platform

__all__ = ["browser", "chromium", "platform"]
