"""Documents and search."""

from django.urls import path

from retrieval import api

urlpatterns = [
    path("api/v2/documents", api.Documents.as_view(), name="documents"),
    path("api/v2/documents/<uuid:document_id>", api.DocumentDetail.as_view(), name="document"),
    path("api/v2/documents/<uuid:document_id>/text", api.DocumentText.as_view(), name="document-text"),
    path("api/v2/retrieval/metrics", api.RetrievalMetrics.as_view(), name="retrieval-metrics"),
    path(
        "api/v2/retrieval/metrics/<uuid:retrieval_id>",
        api.RetrievalMetricOne.as_view(),
        name="retrieval-metric",
    ),
    path("api/v2/search", api.Searches.as_view(), name="search"),
]
