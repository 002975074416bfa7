"""What hosted CI runs: the README's own command, and checks that also run by hand."""

import importlib.util
import os
import re
import subprocess

import pytest
import yaml
from pack import ROOT

pytestmark = pytest.mark.pure

SUBJECTS = ROOT / ".ci" / "subjects"
WORKFLOWS = ROOT / ".github" / "workflows"


def load_release():
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_versions(folder, project, changelog):
    text = f'[project]\nname = "a"\nversion = "{project}"\n'
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    text = f"# Changelog\n\n## {changelog}\n\n- A line.\n\n## 0.1.0\n"
    (folder / "CHANGELOG.md").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("tag", "project", "changelog", "code"),
    [
        ("v1.2.3", "1.2.3", "1.2.3", 0),
        ("v1.2.3", "1.2.2", "1.2.3", 1),
        ("v1.2.3", "1.2.3", "Unreleased", 1),
        ("v1.2", "1.2.3", "1.2.3", 1),
    ],
)
def test_a_release_has_one_version(tmp_path, capsys, tag, project, changelog, code):
    write_versions(tmp_path, project, changelog)
    assert load_release().main([tag], tmp_path) == code
    errors = capsys.readouterr().err
    assert not code or all(version in errors for version in (tag[1:], project, changelog))


def test_the_newest_version_of_the_changelog_is_the_packs():
    project = load_release().read_versions(ROOT)["pyproject.toml"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\d\S*)$", changelog, re.MULTILINE)[0] == project


def make_repository(folder, *subjects):
    """A git repository with this script and one commit per subject; a function that runs git."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words):
        author = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *author, *words], cwd=folder, env=environ, check=True)

    git("init", "-q")
    (folder / ".ci").mkdir()
    (folder / ".ci" / "subjects").write_bytes(SUBJECTS.read_bytes())
    for subject in ("Start", *subjects):
        git("commit", "-q", "--allow-empty", "-m", subject, "-m", "A body " + "of words " * 20)


@pytest.mark.skipif(os.name == "nt", reason="a shell script for CI")
@pytest.mark.parametrize(
    ("subjects", "code"),
    [(["Short"], 0), (["x" * 72], 0), (["x" * 73], 1), (["é" * 72], 0), (["x" * 80, "Short"], 1)],
)
def test_long_subjects_are_refused(tmp_path, subjects, code):
    make_repository(tmp_path, *subjects)
    start = f"HEAD~{len(subjects)}"
    command = ["bash", ".ci/subjects", start]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == code
    assert not code or "x" * 73 in done.stderr


def test_the_workflows_run_the_one_test_command():
    ci = yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))
    test = ci["jobs"]["test"]
    pythons = {row["python"] for row in test["strategy"]["matrix"]["include"]}
    assert {"3.10", "3.12", "3.13"} <= pythons
    assert len({row["folder"] for row in test["strategy"]["matrix"]["include"]}) > 1
    steps = [step["run"] for step in test["steps"] if "run" in step]
    assert steps == ["bash ${{ matrix.folder }}/.ci/run"]


def test_only_a_checked_tag_is_published():
    publish = yaml.safe_load((WORKFLOWS / "publish.yml").read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    assert publish[True] == {"push": {"tags": ["v*"]}}
    jobs = publish["jobs"]
    assert ".ci/release.py" in jobs["version"]["steps"][-1]["run"]
    assert set(jobs["publish"]["needs"]) == {"version", "test"}
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"


@pytest.mark.parametrize("name", ["bug", "question"])
def test_issue_forms_are_what_github_reads(name):
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in fields)
