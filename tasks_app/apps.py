from django.apps import AppConfig


class TasksApp(AppConfig):
    name = "tasks_app"
    label = "tasks_app"
    verbose_name = "Tasks"

    def ready(self) -> None:
        from governance.known_scopes import register_ids

        # Registers pages; the admin itself looks into `admin` modules alone.
        from tasks_app import console  # noqa: F401
        from tasks_app.queries import is_task

        register_ids("task", is_task)
