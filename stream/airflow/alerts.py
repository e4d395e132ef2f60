"""Alerts to people, over whatever is configured: e-mail, Slack, a webhook. Callbacks of the DAGs' tasks.

DRIFTLOOP_ALERT_EMAIL             recipients, comma-separated; sent over Airflow's connection `smtp_default`
DRIFTLOOP_ALERT_SLACK_CONNECTION  id of an Airflow connection of type Slack Incoming Webhook
DRIFTLOOP_ALERT_WEBHOOK_URL       gets {"subject", "text", "dag_id", "run_id", "task_id"} as JSON
"""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

from airflow.sdk import BaseNotifier

from stream.settings import load_settings

__all__ = ["AlertNotifier", "WebhookNotifier", "alert_drift", "alert_failure", "alert_release", "alert_verdict"]

log = logging.getLogger(__name__)
TIMEOUT_S = 10.0


class WebhookNotifier(BaseNotifier):
    """POSTs JSON."""

    template_fields = ("subject", "text")

    def __init__(self, url: str, subject: str, text: str) -> None:
        super().__init__()
        self.url, self.subject, self.text = url, subject, text

    def notify(self, context: Any) -> None:
        instance = context.get("ti")
        where = {name: getattr(instance, name, None) for name in ("dag_id", "run_id", "task_id")}
        body = json.dumps({"subject": self.subject, "text": self.text, **where}).encode()
        request = Request(self.url, body, {"Content-Type": "application/json"}, method="POST")
        with urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()


class AlertNotifier(BaseNotifier):
    """One message over all that is configured. What cannot be sent is logged and keeps nobody else from getting it."""

    template_fields = ("subject", "text")

    def __init__(self, subject: str, text: str) -> None:
        super().__init__()
        self.subject, self.text = subject, text

    def notify(self, context: Any) -> None:
        for notifier in _configured(self.subject, self.text):
            try:
                notifier.notify(context)
            except Exception:
                log.exception("this alert was not sent: %s", self.subject)


def _configured(subject: str, text: str) -> Iterator[Any]:
    settings = load_settings()
    if settings.alert_email:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        recipients = [address.strip() for address in settings.alert_email.split(",")]
        body = f"<pre>{html.escape(text)}</pre>"
        yield SmtpNotifier(to=recipients, subject=subject, html_content=body)
    if settings.alert_slack_connection:
        from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier

        message = html.escape(f"*{subject}*\n{text}", quote=False)  # these three characters are Slack's own
        yield SlackWebhookNotifier(
            slack_webhook_conn_id=settings.alert_slack_connection, text=message, timeout=int(TIMEOUT_S)
        )
    if settings.alert_webhook_url:
        yield WebhookNotifier(settings.alert_webhook_url.get_secret_value(), subject, text)


def alert_failure(context: Any) -> None:
    """`on_failure_callback`: a task has failed for good."""
    instance = context["ti"]
    error = context.get("exception")
    lines = [
        f"run: {instance.run_id}",
        f"attempt: {getattr(instance, 'try_number', None)}",
        f"error: {type(error).__name__}: {error}" if error else "error: none given; see the log",
        f"log: {getattr(instance, 'log_url', '')}",
    ]
    AlertNotifier(f"{instance.dag_id}: {instance.task_id} failed", "\n".join(lines)).notify(context)


def alert_drift(context: Any) -> None:
    """`on_success_callback` of take_up: says so when a run has begun for a change."""
    answer = _answer(context)
    if not answer.get("go") or not answer.get("drift"):
        return
    drift = answer["drift"]
    lines = [
        f"signal: {drift['signal']}, detector: {drift['detector']}, severity: {drift['severity']:.2f}",
        f"mean before and after: {drift['before']:.4g}, {drift['after']:.4g}",
        f"since example {drift['from_offset']} of {drift['examples_topic']}",
        f"why now: {answer['why']}, follow-up {answer['stage']}",
    ]
    AlertNotifier(f"{drift['pipeline']}: the world has changed, retraining", "\n".join(lines)).notify(context)


def alert_verdict(context: Any) -> None:
    """`on_success_callback` of compare."""
    _alert_answer(context, "candidate compared with the champion")


def alert_release(context: Any) -> None:
    """`on_success_callback` of release."""
    _alert_answer(context, "release decided")


def _alert_answer(context: Any, what: str) -> None:
    answer = _answer(context)
    lines = [f"{key}: {value}" for key, value in answer.items() if isinstance(value, str | int | float | bool)]
    AlertNotifier(f"{context['ti'].dag_id}: {what}", "\n".join(lines)).notify(context)


def _answer(context: Any) -> dict[str, Any]:
    instance = context["ti"]
    return instance.xcom_pull(task_ids=instance.task_id, key="answer") or {}
