"""Alerts and their targets: a Slack-compatible webhook, e-mail, and the log."""

from __future__ import annotations

import html
import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import make_msgid
from urllib.parse import SplitResult, unquote, urlsplit

import httpx
import msgspec

from lse_archive.errors import ArchiveError, SettingsError
from lse_archive.printable import printable
from lse_archive.texts import counted
from lse_resources.settings import Settings

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 15.0
_MAX_LINES = 40
_MAX_LINE = 400


class Alert(msgspec.Struct, frozen=True):
    """One message. Control characters of its text become escapes: names and errors come from outside.

    Attributes:
        title: What happened, in one line.
        lines: Project, day, differences, what to do, and a link to the run.
    """

    title: str
    lines: list[str] = []

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "title", printable(self.title))
        msgspec.structs.force_setattr(self, "lines", [printable(line) for line in self.lines])

    def text(self) -> str:
        """The whole message, of bounded length."""
        shown = [line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]}…" for line in self.lines[:_MAX_LINES]]
        if len(self.lines) > _MAX_LINES:
            shown.append(f"… and {counted(len(self.lines) - _MAX_LINES, 'more line')}")
        return "\n".join([self.title, "", *shown])


Send = Callable[[Alert], None]
"""Delivers an alert; raises ArchiveError if it may not have arrived."""


def targets(settings: Settings) -> Mapping[str, Send]:
    """The configured targets by name; sends nothing.

    One that is configured incompletely, or whose address is malformed, refuses every alert with its SettingsError: the
    others get theirs, and its own wait until it is repaired.
    """
    found: dict[str, Send] = {}
    for name, target in _TARGETS.items():
        try:
            send = target(settings)
        except SettingsError as error:
            send = _refusing(error)
        if send:
            found[name] = send
    return found


def check_targets(settings: Settings) -> list[str]:
    """The names of the configured targets.

    Raises:
        SettingsError: A target is configured incompletely, or its address is malformed.
    """
    return [name for name, target in _TARGETS.items() if target(settings)]


def _webhook(settings: Settings) -> Send | None:
    if not settings.lse_alert_webhook_url:
        return None
    url = settings.lse_alert_webhook_url.get_secret_value()
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https"):
        raise SettingsError("the alert webhook cannot be used", why="LSE_ALERT_WEBHOOK_URL is not an http(s) URL")
    return lambda alert: post(url, alert)


def _email(settings: Settings) -> Send | None:
    if not settings.lse_alert_smtp_url and not settings.lse_alert_email:
        return None
    if not settings.lse_alert_smtp_url or not settings.lse_alert_email:
        raise SettingsError(
            "alerts by e-mail are configured incompletely",
            why="only one of LSE_ALERT_SMTP_URL and LSE_ALERT_EMAIL is set",
            hint="Set both, or neither",
        )
    server = settings.lse_alert_smtp_url.get_secret_value()
    mail_server(server)
    addresses = [address.strip() for address in settings.lse_alert_email.split(",") if address.strip()]
    if not addresses or not settings.lse_alert_email.isprintable():
        raise SettingsError("alerts by e-mail cannot be sent", why="LSE_ALERT_EMAIL is not a list of addresses")
    return lambda alert: mail(server, addresses, alert)


_TARGETS = {"webhook": _webhook, "e-mail": _email}


def _refusing(error: SettingsError) -> Send:
    def refuse(_: Alert) -> None:
        raise error

    return refuse


def post(url: str, alert: Alert) -> None:
    """Posts `{"text": …}`, which Slack, Mattermost, Rocket.Chat and others accept. The URL is a secret.

    Raises:
        ArchiveError: It was not accepted.
    """
    # As Slack demands ("Formatting text for app surfaces"): a name could be a link, or call a whole channel.
    text = html.escape(alert.text(), quote=False)
    try:
        answer = httpx.post(url, json={"text": text}, timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _failed("webhook", type(error).__name__, "LSE_ALERT_WEBHOOK_URL") from None
    if not answer.is_success:
        raise _failed("webhook", f"HTTP {answer.status_code}", "LSE_ALERT_WEBHOOK_URL")


def mail(server: str, addresses: list[str], alert: Alert) -> None:
    """Sends an e-mail: `smtp://[user:password@]host[:port]` (STARTTLS if there is a password), or `smtps://…`.

    Raises:
        ArchiveError: The server did not accept it for every address.
        SettingsError: The address of the server is malformed.
    """
    parts = mail_server(server)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    message = EmailMessage()
    message["Subject"] = f"[LSE] {alert.title}"
    message["From"] = user if "@" in user else addresses[0]
    message["To"] = ", ".join(addresses)
    message["Message-ID"] = make_msgid(domain="lse.localhost")
    message.set_content(alert.text())
    try:
        with _connect(parts.scheme, parts.hostname or "", parts.port) as smtp:
            if password:
                if parts.scheme == "smtp":
                    smtp.starttls(context=ssl.create_default_context())
                smtp.login(user, password)
            refused = smtp.send_message(message)
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        raise _failed("e-mail", _smtp_reason(error), "LSE_ALERT_SMTP_URL") from None
    if refused:
        raise _failed("e-mail", f"refused for {', '.join(refused)}", "LSE_ALERT_EMAIL")


def mail_server(url: str) -> SplitResult:
    """The parts of LSE_ALERT_SMTP_URL.

    Raises:
        SettingsError: It is malformed; the error does not quote it.
    """
    parts = _split(url)
    # Text after the port means an unescaped password: then the host is a part of the user.
    if parts is None or parts.scheme not in ("smtp", "smtps") or not parts.hostname or _rest(parts):
        raise SettingsError(
            "the mail server cannot be used",
            why="LSE_ALERT_SMTP_URL is not smtp://host:port or smtps://host:port",
            hint="Write special characters of the password as %XX",
        )
    return parts


def _split(url: str) -> SplitResult | None:
    """The parts of a URL with its port; None if it is malformed, because the error would quote it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _rest(parts: SplitResult) -> str:
    return parts.path.strip("/") + parts.query + parts.fragment


def _connect(scheme: str, host: str, port: int | None) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port or 465, timeout=_TIMEOUT_SECONDS, context=ssl.create_default_context())
    return smtplib.SMTP(host, port or 25, timeout=_TIMEOUT_SECONDS)


def _smtp_reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the server answered {error.smtp_code}"
    return getattr(error, "strerror", None) or type(error).__name__


def _failed(target: str, why: str, variable: str) -> ArchiveError:
    return ArchiveError(f"the alert was not delivered by {target}", why=why, hint=f"Check {variable}")


def log(alert: Alert) -> None:
    """Writes the alert into the log of the process."""
    _log.warning("%s", alert.text())
