"""What deploy/check.sh asks of Python: manifests, chart, dashboard and rules, beside each other and beside docs/metrics.md."""

import json
import re
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parent
MANIFEST = DEPLOY / "kubernetes" / "loci.yaml"
CHART = DEPLOY / "helm" / "loci"
# The oldest and the newest that the schemas at hand describe and the chart allows.
KUBERNETES = ("1.27", "1.30", "1.33", "1.37")
# Further values: what is not the default must render and fit as well.
VALUES = (
    {},
    {"replicas": 1, "antiAffinity": "none", "networkPolicy": {"enabled": False}, "podAnnotations": None},
    {
        "replicas": 5,
        "image": {"repository": "registry.example.org/loci", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "storage": {"size": "1Ti", "className": "fast"},
        "antiAffinity": "preferred",
        "log": {"format": "text", "level": "info,loci_node=debug"},
        "extraArgs": ["--memory-mib=3000", "--graph-threads=2"],
        "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "agents"}}}]},
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "loci", "operator": "Exists"}],
        "priorityClassName": "high",
        "podLabels": {"team": "agents"},
    },
)
REFUSED = ({"replicas": 2}, {"replicas": "3"}, {"antiAffinity": "maybe"}, {"extraArgs": ["serve"]}, {"replica": 3})
# Nothing to see in a sound cluster, or not within the half minute that a check takes.
MAY_BE_EMPTY = ('code!="OK"', "loci_collection_recall{", "loci_snapshot_under_way")


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def by_name(found):
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def fit(found, what):
    try:
        from kubernetes_validate import utils
    except ImportError:
        print("skipped: no kubernetes-validate")
        return 0
    wrong = 0
    for version in KUBERNETES:
        for one in found:
            try:
                utils.validate(one, version, strict=True)
            except utils.VersionNotSupportedError:
                print(f"skipped: no schemas of Kubernetes {version}")
                break
            except utils.ValidationError as error:
                print(f"WRONG: {what}, Kubernetes {version}, {one['kind']} {one['metadata']['name']}: {error.message}")
                wrong += 1
    print(f"{what}: {len(found)} objects fit the schemas of Kubernetes {', '.join(KUBERNETES)}" if not wrong else "")
    return wrong


def kubernetes():
    manifest = documents(MANIFEST.read_text())
    wrong = fit(manifest, "kubernetes/loci.yaml")
    try:
        import helm_python as helm
    except (ImportError, OSError) as error:
        print(f"skipped: no Helm ({error})")
        return wrong
    print(f"Helm {helm.helm_sdk_version()}")
    for message in helm.lint(str(CHART), strict=True)["messages"]:
        if message["severity"] > 1:
            print(f"WRONG: helm lint: {message['path']}: {message['error']}")
            wrong += 1
    with helm.Chart.load(str(CHART)) as chart:
        for number, values in enumerate(VALUES):
            chart.validate_schema(values)
            files = chart.render(values, name="loci", namespace="default")
            rendered = [one for name, text in files.items() if name.endswith(".yaml") for one in documents(text)]
            wrong += fit(rendered, f"helm/loci, values {number}")
            if values:
                continue
            # As it comes, the chart is the manifest, but for what Helm says about itself.
            for one in rendered:
                for label in ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"):
                    one["metadata"]["labels"].pop(label)
            rendered, written = by_name(rendered), by_name(manifest)
            for name in sorted(rendered.keys() | written.keys()):
                if rendered.get(name) != written.get(name):
                    print(f"WRONG: {name} differs between helm/loci and kubernetes/loci.yaml")
                    wrong += 1
        for values in REFUSED:
            try:
                chart.validate_schema(values)
            except helm.HelmError:
                continue
            print(f"WRONG: values.schema.json takes {values}")
            wrong += 1
    return wrong


def dashboard_queries():
    board = json.loads((DEPLOY / "grafana" / "loci.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]), "two panels have one id"
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def alert_queries():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def without_variables(query):
    for variable, value in (("$__rate_interval", "1m"), ("$job", "loci"), ("$instance", ".*")):
        query = query.replace(variable, value)
    return query


def dashboard_as_rules():
    rules = [{"record": f"q{n}", "expr": without_variables(query)} for n, (_, query) in enumerate(dashboard_queries())]
    print(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    return 0


def metrics():
    """Every metric of a query stands in docs/metrics.md."""
    page = (DEPLOY.parent / "docs" / "metrics.md").read_text()
    known = set()
    for name, kind in re.findall(r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \|", page, re.MULTILINE):
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[kind]
        known.update(name + ending for ending in endings)
    wrong = 0
    queries = dashboard_queries() + alert_queries()
    for title, query in queries:
        for name in re.findall(r"\b(?:loci|process)_[a-z_]+", query):
            if name not in known:
                print(f"WRONG: {title}: no metric {name} in docs/metrics.md")
                wrong += 1
    print(f"{len(queries)} queries, all of metrics that docs/metrics.md describes" if not wrong else "")
    return wrong


def live(address):
    """Every query of the dashboard has an answer, and no alert of a sound cluster has one."""
    def ask(query):
        url = f"{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]["result"]

    for _ in range(60):
        if len(ask('loci_build_info{job="loci"}')) == 3:
            break
        time.sleep(1)
    wrong = answered = 0
    for title, query in dashboard_queries():
        found = ask(without_variables(query))
        answered += bool(found)
        if not found and not any(part in query for part in MAY_BE_EMPTY):
            print(f"WRONG: {title}: nothing answers {query}")
            wrong += 1
    for title, query in alert_queries():
        found = ask(query)
        # Nobody was killed, but an election or two is how a cluster begins.
        if found and title != "LociLeaderChangesOften":
            print(f"WRONG: {title} is told of a sound cluster: {found}")
            wrong += 1
    print(f"{answered} of {len(dashboard_queries())} queries of the dashboard have an answer")
    print(f"{len(alert_queries())} rules were asked" + (", none is told of" if not wrong else ""))
    return wrong


if __name__ == "__main__":
    named = {"kubernetes": kubernetes, "metrics": metrics, "live": live, "dashboard-as-rules": dashboard_as_rules}
    sys.exit(1 if named[sys.argv[1]](*sys.argv[2:]) else 0)
