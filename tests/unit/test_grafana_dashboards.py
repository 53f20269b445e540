"""The committed dashboards: generated, whole, and without a way for a name to leave its quotes."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from pulsetrain_grafana.files import FOLDER as GRAFANA
from pulsetrain_grafana.files import all_files
from tests.grafana_files import FILES, FOLDER, RULES, loaded, panels, queries, rule_queries
from tests.grafana_macros import Range, expanded, expanded_promql, interpolated

DATASOURCES = {
    source["uid"]: source["type"]
    for file in (GRAFANA / "provisioning" / "datasources").glob("*.yaml")
    for source in yaml.safe_load(file.read_text(encoding="utf-8"))["datasources"]
}
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_what_is_committed_is_what_is_generated() -> None:
    made = all_files()
    there = {str(path.relative_to(GRAFANA)): path.read_text(encoding="utf-8") for path in [*FILES, RULES]}
    assert made == there, "run: .venv/bin/python -m pulsetrain_grafana"
    assert len(FILES) >= 7


def test_dashboards_have_ids_and_titles_of_their_own() -> None:
    made = [loaded(path) for path in FILES]
    assert len({one["uid"] for one in made}) == len({one["title"] for one in made}) == len(made)
    assert all(
        one["description"] and one["uid"] == f"pulsetrain-{path.stem}" for one, path in zip(made, FILES, strict=True)
    )


@by_file
def test_panels_have_ids_titles_descriptions_and_units(path: Path) -> None:
    found = list(panels(loaded(path)))
    ids = [panel["id"] for panel in found]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    for panel in found:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["targets"], panel["title"]


@by_file
def test_panels_do_not_overlap_and_fill_the_width(path: Path) -> None:
    places = [panel["gridPos"] for panel in loaded(path)["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        assert place["h"] > 0
    for one, two in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        above = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert beside or above, (one, two)


@by_file
def test_all_that_is_asked_is_asked_of_a_datasource_that_there_is(path: Path) -> None:
    assert set(DATASOURCES) == {"pulsetrain-clickhouse", "pulsetrain-prometheus"}
    named = re.findall(r'"type": "([^"]*)",\s*"uid": "([^"]*)"', path.read_text(encoding="utf-8"))
    assert {uid: kind for kind, uid in named if kind in DATASOURCES.values()}.items() <= DATASOURCES.items()
    for panel in panels(loaded(path)):
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"]
            assert target["datasource"]["uid"] in DATASOURCES


@by_file
def test_links_lead_to_dashboards_and_variables_that_there_are(path: Path) -> None:
    variables = {
        loaded(other)["uid"]: {one["name"] for one in loaded(other).get("templating", {}).get("list", ())}
        for other in FILES
    }
    for uid, parameters in re.findall(r'"/d/([\w-]+)\?([^"]*)"', path.read_text(encoding="utf-8")):
        assert set(re.findall(r"var-(\w+)=", parameters)) <= variables[uid]
    own = variables[loaded(path)["uid"]]
    for panel in panels(loaded(path)):
        assert panel.get("repeat") in (None, *own)


HOSTILE = [
    "\\' OR 1=1 --",
    "'",
    "a'b\\",
    "$__timeFilter",
    "${project}",
    "x' UNION ALL SELECT 1 --",
    "한국어 손실",
    "&var-run=b",
    "{}",
    "a,b",
]


@by_file
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_within_its_quotes(path: Path, name: str) -> None:
    own = [one["name"] for one in loaded(path).get("templating", {}).get("list", ())]
    tame = {key: ["x"] for key in own}
    for asked in (it for it in queries(path) if it.is_sql):
        plain = interpolated(asked.text, tame)
        for variable in own:
            hostile = interpolated(asked.text, {**tame, variable: [name, name]})
            # The same text but for what stands between the same quotes.
            quoted = r"'var-[^'\\]*'"
            assert re.sub(quoted, "?", hostile) == re.sub(quoted, "?", plain), asked


@by_file
def test_macros_are_those_of_the_plugin(path: Path) -> None:
    own = {one["name"]: ["x"] for one in loaded(path).get("templating", {}).get("list", ())}
    for asked in queries(path):
        if asked.is_sql:
            assert expanded(interpolated(asked.text, own), Range(0, 3600))
        else:
            assert "$" not in expanded_promql(asked.text, Range(0, 3600))


def test_rules_ask_a_datasource_that_there_is_and_say_what_to_do() -> None:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert len({rule["uid"] for rule in group["rules"]}) == len(group["rules"]) >= 5
    for rule in group["rules"]:
        assert rule["data"][0]["datasourceUid"] in DATASOURCES
        assert rule["condition"] == rule["data"][1]["refId"]
        assert rule["data"][1]["model"]["expression"] == rule["data"][0]["refId"]
        assert len(rule["annotations"]["summary"]) > 40
        assert rule["labels"]["severity"] in ("critical", "warning")
    for asked in rule_queries():
        assert expanded(interpolated(asked.text, {}), Range(0, 3600))


def test_rules_tell_a_contact_point_that_is_provisioned() -> None:
    (point,) = yaml.safe_load(RULES.with_name("contact-points.yaml").read_text(encoding="utf-8"))["contactPoints"]
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert {rule["notification_settings"]["receiver"] for rule in group["rules"]} == {point["name"]}
    assert point["receivers"]


def test_the_folder_has_nothing_else() -> None:
    assert {path.suffix for path in FOLDER.iterdir()} == {".json"}
