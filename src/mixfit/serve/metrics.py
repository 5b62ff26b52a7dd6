"""What /metrics tells Prometheus: requests, their duration, batches, the queue, and how rows differ from the training.

Labels are names of models, of their columns and of our own paths, never anything that a request contains."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mixfit.serve.model import Answer, ServedModel

_SECONDS = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.2, 0.4, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        at = self.registry = CollectorRegistry()
        of_column = ("model", "column")
        self.requests = Counter("mixfit_requests", "Requests by path and status.", ("path", "status"), registry=at)
        self.seconds = Histogram(
            "mixfit_request_seconds", "Time of a request, body included.", ("path",), buckets=_SECONDS, registry=at
        )
        self.batches = Histogram("mixfit_batch_rows", "Rows predicted together.", buckets=_ROWS, registry=at)
        self.queue = Gauge("mixfit_queue_rows", "Rows that wait or are being predicted.", registry=at)
        self.rows = Counter("mixfit_rows", "Predicted rows by status.", ("model", "status"), registry=at)
        self.unseen = Counter(
            "mixfit_unseen_categories", "Cells with a category that no training row has.", of_column, registry=at
        )
        self.outside = Counter(
            "mixfit_out_of_range_numbers", "Cells with a number beyond the training rows.", of_column, registry=at
        )
        self.without_photo = Counter(
            "mixfit_rows_without_photo", "Rows without a readable photo.", ("model",), registry=at
        )

    def count(self, model: ServedModel, answer: Answer) -> None:
        """Count the rows of an answer."""
        for row in answer.rows:
            kind = row["status"] if row["status"] in ("ok", "no photo") else "noted"
            self.rows.labels(model.name, kind).inc()
        for column in answer.drift.unseen:
            self.unseen.labels(model.name, column).inc()
        for column in answer.drift.outside:
            self.outside.labels(model.name, column).inc()
        if model.images:
            self.without_photo.labels(model.name).inc(answer.drift.without_photo)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)
