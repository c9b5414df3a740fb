"""/tasks: the state of publishes that were accepted to be done later."""

from datetime import UTC, datetime

from flask import Blueprint, Response, request

from kafka_http.errors import TaskNotFound
from kafka_http.tasks import TASK_STATUSES, Task, Tasks, creation_time, task_to_dict
from kafka_http.web.access_check import request_access
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.responses import json_response
from kafka_http.web.url_paths import Routes, new_blueprint
from kafka_http.web.wait_limiter import WaitLimiter

MAX_WAIT = 60
MAX_TASKS = 1000


class TaskRoutes:
    """The views of tasks. Tasks of other principals are not found."""

    def __init__(self, tasks: Tasks, wait_limiter: WaitLimiter, retention: float) -> None:
        """`retention` is the time in seconds that a task is kept after its end."""
        self._tasks = tasks
        self._wait_limiter = wait_limiter
        self._retention = retention

    def blueprint(self) -> Blueprint:
        routes: Routes = {"": {"GET": self.list}, "/<task_id>": {"GET": self.find, "DELETE": self.cancel}}
        return new_blueprint("tasks", routes, prefix="/tasks")

    def list(self) -> Response:
        """GET /tasks: a page of tasks, ordered by the time of acceptance."""
        query = QueryParameters(request.args, ("status", "topic", "limit", "after"))
        status = query.choice("status", TASK_STATUSES, "pending") if query.text("status") is not None else None
        limit = query.integer("limit", 100, 1, MAX_TASKS)
        access = request_access()
        access.require_listing()
        topic, after = query.text("topic"), query.text("after")
        tasks = self._tasks.list_tasks(status, topic, limit, after, access.visible_owner)
        return json_response({"tasks": [task_to_dict(each) for each in tasks]})

    def find(self, task_id: str) -> Response:
        """GET /tasks/<id>: a task. With `?wait=`, the response is delayed until the task has ended."""
        wait = QueryParameters(request.args, ("wait",)).seconds("wait", 0, MAX_WAIT)
        with self._wait_limiter.acquire(wait) as seconds:
            return self._response(task_id, self._tasks.find_task(task_id, seconds, request_access().visible_owner))

    def cancel(self, task_id: str) -> Response:
        """DELETE /tasks/<id>: cancel a pending task."""
        QueryParameters(request.args, ())
        return self._response(task_id, self._tasks.cancel_task(task_id, request_access().visible_owner))

    def _response(self, task_id: str, task: Task | None) -> Response:
        if task is None:
            raise self._not_found(task_id)
        return json_response({"task": task_to_dict(task)})

    def _not_found(self, task_id: str) -> TaskNotFound:
        created = creation_time(task_id)
        now = datetime.now(UTC).timestamp()
        if created is None or created > now + self._retention:
            return TaskNotFound("Task not found: this is not the id of a task.")
        if created < now - self._retention:
            return TaskNotFound(
                f"Task not found: tasks are removed {self._retention:.0f} s after their end (task_retention)."
            )
        return TaskNotFound("Task not found: this server, or the database that it uses, has not accepted it.")
