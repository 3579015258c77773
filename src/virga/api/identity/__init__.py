"""The identity API (v3): who is who, who may do what where, and the catalog of services."""
from virga.api.identity.bootstrap import Founders as Founders
from virga.api.identity.bootstrap import bootstrap as bootstrap
from virga.api.identity.secret import hash_secret as hash_secret
from virga.api.identity.service import service as service
from virga.api.identity.session import authenticate as authenticate
