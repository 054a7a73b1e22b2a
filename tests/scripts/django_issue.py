"""Issues certificates with django-ca one after the other; one JSON line each. Ends when standard input closes.

Run inside the project folder by its environment's Python. Arguments: CA serial, prefix of the common names.
"""

import os
import sys
import time

from load import stop, tell

sys.path.insert(0, os.getcwd())
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"

import django

django.setup()

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from django.db import DatabaseError
from django_ca.key_backends.storages.models import StoragesUsePrivateKeyOptions
from django_ca.models import Certificate, CertificateAuthority

serial, prefix = sys.argv[1], sys.argv[2]
ca = CertificateAuthority.objects.get(serial=serial)
password = StoragesUsePrivateKeyOptions(password=None)
# One key for all of them: the load is the CA's, not the applicant's.
key = ec.generate_private_key(ec.SECP256R1())
number = 0

while not stop.is_set():
    number += 1
    name = f"{prefix}-{number}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    begun = time.monotonic_ns()
    try:
        cert = Certificate.objects.create_cert(ca, password, csr, subject=subject)
    except (DatabaseError, OSError) as refusal:
        tell(refused=str(refusal), begun_ns=begun, refused_ns=time.monotonic_ns())
        time.sleep(0.005)
        continue
    tell(name=name, serial=cert.serial, pem=cert.pub.pem, begun_ns=begun, acked_ns=time.monotonic_ns())
