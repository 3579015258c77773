"""The compute API (v2.1 with microversions): one module per resource, each with its `ROUTES`; `service()`
joins them."""

from virga.api.compute.service import service as service
