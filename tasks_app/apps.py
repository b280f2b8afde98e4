from django.apps import AppConfig


class TasksApp(AppConfig):
    name = "tasks_app"
    label = "tasks_app"
    verbose_name = "Tasks"
