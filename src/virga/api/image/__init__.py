"""The image API (v2): images, their bytes, who shares them, imports, schemas."""
from virga.api.image.bootstrap import bootstrap_image as bootstrap_image
from virga.api.image.bootstrap import recover_images as recover_images
from virga.api.image.service import service as service
