# Runs inside `manage.py shell`: tells what a django-ca installation consists of, as one line of JSON after a marker.
# Reads settings and the certificate authorities; changes nothing.
import base64, json, os, sys


def _holdfast_discover():
    from django.conf import settings
    from django.core.files.storage import storages
    from django_ca.conf import model_settings
    from django_ca.key_backends import key_backends, ocsp_key_backends
    from django_ca.models import CertificateAuthority

    found = {"databases": {}, "database": CertificateAuthority.objects.db, "keys": [], "certificates": [],
             "configuration": [], "warnings": []}
    secrets = [str(settings.SECRET_KEY)]
    for alias, database in settings.DATABASES.items():
        options = database.get("OPTIONS") or {}
        name = str(database.get("NAME") or "")
        found["databases"][alias] = {
            "engine": str(database.get("ENGINE") or ""),
            "name": os.path.abspath(name) if name and not name.startswith("file:") else name,
            "timeout": options.get("timeout"),
        }
        secrets.append(str(database.get("PASSWORD") or ""))

    def hexed(password):
        if password is None:
            return None
        return (password.encode() if isinstance(password, str) else bytes(password)).hex()

    def key(purpose, backend, options, certificate, password, name):
        alias = getattr(backend, "storage_alias", None)
        path = (options or {}).get("path")
        if alias is None or not path:
            if (options or {}).get("pem") or (options or {}).get("private_key"):
                return  # inside the database
            kind = type(backend).__name__
            if "DB" not in kind:
                found["warnings"].append("the %s of %s is kept by %s and is not in this backup" % (purpose, name, kind))
            return
        found["keys"].append({"path": os.path.abspath(storages[alias].path(path)), "purpose": purpose,
                              "certificate": certificate, "passphrase": hexed(password)})

    for ca in CertificateAuthority.objects.order_by("serial"):
        pem = ca.pub.pem
        found["certificates"].append(pem)
        password = model_settings.CA_PASSWORDS.get(ca.serial)
        if password is not None:
            secrets.append(password.decode("utf-8", "replace") if isinstance(password, bytes) else str(password))
        key("CA key", key_backends[ca.key_backend_alias], ca.key_backend_options, pem, password, ca.name)
        options = ca.ocsp_key_backend_options or {}
        private = options.get("private_key") or {}
        if private:
            encoded = private.get("password")
            key("OCSP key", ocsp_key_backends[ca.ocsp_key_backend_alias], private,
                (options.get("certificate") or {}).get("pem"),
                base64.b64decode(encoded) if encoded else None, ca.name)

    project = os.path.realpath(os.getcwd())
    prefixes = {os.path.realpath(sys.prefix), os.path.realpath(sys.exec_prefix)}
    files = {os.path.join(project, "manage.py")}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        path = os.path.realpath(path) if path else ""
        if path.startswith(project + os.sep) and path.endswith(".py") and "site-packages" not in path.split(os.sep) \
                and not any(prefix != project and path.startswith(prefix + os.sep) for prefix in prefixes):
            files.add(path)
    # What only the server imports lies beside what was imported here: URLs, WSGI and ASGI modules.
    for folder in {os.path.dirname(path) for path in files}:
        for entry in os.scandir(folder):
            if entry.name.endswith(".py") and entry.is_file(follow_symlinks=False):
                files.add(entry.path)
    for path in sorted(files)[:1000]:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(1 << 20)
        found["configuration"].append({"path": path, "secret": any(s and s in text for s in secrets)})
    return found


print("\nHOLDFAST-DISCOVERY " + json.dumps(_holdfast_discover()))
