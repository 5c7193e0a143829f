"""Settings: where they come from, what is refused, what site sandbox does not read, what is never shown."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops import redaction
from polyladder_ops.errors import SettingsError
from polyladder_ops.settings import VARIABLES, Settings, describe, load

AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Hq7dVQ3TvOb0i1cCq0q3f6s2u1dW4g7P9m8k5n0aB"


def read(root: Path, flags: dict[str, str] | None = None, config: object = None, **environ: str) -> Settings:
    return load(flags or {}, environ=environ, root=root, config=config)


def faults(root: Path, flags: dict[str, str] | None = None, config: object = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(root, flags, config, **environ)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return str(caught.value)


def test_defaults_are_those_of_the_table(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.site == "production"
    assert settings.database_url is None
    assert settings.backup_dir == tmp_path / "backups"
    assert settings.backup_retention == 30
    assert (settings.app, settings.db_app, settings.org) == ("polyladder", "polyladder-db", None)
    assert settings.state_dir.is_absolute()
    assert settings.state_dir.name == "polyladder-ops"
    assert settings.backup_age_recipients == ()
    assert settings.sources["BACKUP_DIR"] == "default"
    assert settings.sources["DATABASE_URL"] == "unset"


def test_a_stronger_source_wins_and_is_named(tmp_path: Path) -> None:
    sources = ["flag", "environment", ".env.staging", ".env", "invoke.yaml", "default"]
    for strongest in range(len(sources)):
        given_to = set(sources[strongest:])
        (tmp_path / ".env").write_text("BACKUP_DIR=of-env\n" if ".env" in given_to else "")
        (tmp_path / ".env.staging").write_text("BACKUP_DIR=of-site\n" if ".env.staging" in given_to else "")
        settings = read(
            tmp_path,
            {"site": "staging", **({"backup_dir": "of-flag"} if "flag" in given_to else {})},
            {"backup_dir": "of-yaml"} if "invoke.yaml" in given_to else {},
            **({"BACKUP_DIR": "of-environment"} if "environment" in given_to else {}),
        )
        names = ["of-flag", "of-environment", "of-site", "of-env", "of-yaml", "backups"]
        assert settings.backup_dir == tmp_path / names[strongest]
        assert settings.sources["BACKUP_DIR"] == sources[strongest]


def test_the_site_itself_is_not_taken_from_a_sites_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POLYLADDER_SITE=staging\n")
    (tmp_path / ".env.staging").write_text("BACKUP_RETENTION=7\n")
    settings = read(tmp_path)
    assert (settings.site, settings.sources["POLYLADDER_SITE"]) == ("staging", ".env")
    assert settings.backup_retention == 7
    assert read(tmp_path, {"site": "production"}).backup_retention == 30
    (tmp_path / ".env.staging").write_text("POLYLADDER_SITE=production\n")
    assert "POLYLADDER_SITE (.env.staging) names another site than its file" in faults(tmp_path)


def test_empty_text_counts_as_unset_and_space_around_a_value_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BACKUP_RETENTION=9\n")
    settings = read(tmp_path, {"backup_retention": ""}, BACKUP_RETENTION="  ", FLY_API_TOKEN="fo1_tok\r\n")
    assert settings.backup_retention == 9
    assert settings.fly_api_token == "fo1_tok"


def test_nothing_in_a_dotenv_file_is_interpolated_and_a_byte_order_mark_does_not_matter(
    tmp_path: Path,
) -> None:
    text = "\ufeffexport DATABASE_URL='postgres://u:${HOME}#x@h/db'  # comment\nBACKUP_DIR=a # b\nJWT_SECRET=other\n"
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    settings = read(tmp_path)
    assert settings.database_url == "postgres://u:${HOME}#x@h/db"
    assert settings.backup_dir == tmp_path / "a"


def test_a_dotenv_file_that_is_not_understood_is_refused_by_line_and_without_its_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BACKUP_RETENTION=3\nDATABASE_URL=\"postgres://u:hunter2@h/db\nX='y\n")
    said = faults(tmp_path)
    assert ".env can't be understood at line 2" in said
    assert "at line 3" in said
    assert "hunter2" not in said
    (tmp_path / ".env").write_bytes(b"BACKUP_DIR=\xff\xfe\n")
    assert ".env can't be read: it is not UTF-8" in faults(tmp_path)


def test_a_link_to_a_dotenv_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    """Passed over, the settings of another site would hold in its place."""
    (tmp_path / ".env.staging").symlink_to(tmp_path / "gone.env")
    assert ".env.staging is a link to a file that is not there" in faults(tmp_path, POLYLADDER_SITE="staging")


def test_a_folder_named_dotenv_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert read(tmp_path).ignored == ()


def test_relative_paths_start_at_the_root_and_a_tilde_is_home(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text("AGE-SECRET-KEY-1\n")
    settings = read(
        tmp_path, BACKUP_DIR="~/dumps", POLYLADDER_STATE_DIR="state", BACKUP_AGE_IDENTITY_FILE="key.txt"
    )
    assert settings.backup_dir == Path.home() / "dumps"
    assert settings.state_dir == tmp_path / "state"
    assert settings.backup_age_identity_file == tmp_path / "key.txt"
    assert settings.sandbox_server == tmp_path / "state" / "sandbox" / "server"


def test_all_faults_are_said_at_once_each_with_its_variable_source_and_cure(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POLYLADDER_HEALTHURL=https://x\nBACKUP_AGE_IDENTITY_FILE=none.txt\n")
    said = faults(
        tmp_path,
        {"site": "../etc"},
        {"aws_s3_bucket": "s3://b/x", "backup_retention": True, "site": "x", "fly_api_token": "yaml-token-1"},
        BACKUP_RETENTON="3",
        POLYLADDER_HEALTH_URL="ftp://host/x",
        POLYLADDER_APP="--yes",
        INVOKE_POLYLADDER_BACKUP_DIR="x",
        BACKUP_AGE_RECIPIENTS=f"{AGE},age1short",
    )
    assert said.startswith("error: 12 settings are unusable\n")
    for part in (
        "POLYLADDER_SITE (flag) is not a site's name",
        "AWS_S3_BUCKET (invoke.yaml) is not a bucket's name; write the bare name",
        "BACKUP_RETENTION (invoke.yaml) is not a text",
        "polyladder.site (invoke.yaml) is not a setting; did you mean polyladder_site?",
        "FLY_API_TOKEN (invoke.yaml) is a secret; move it to the environment or a .env file.",
        "BACKUP_RETENTON (environment) is not a setting; did you mean BACKUP_RETENTION?",
        "POLYLADDER_HEALTHURL (.env) is not a setting; did you mean POLYLADDER_HEALTH_URL?",
        "POLYLADDER_HEALTH_URL (environment) is not a web address",
        "POLYLADDER_APP (environment) is not a name of Fly's",
        "INVOKE_POLYLADDER_BACKUP_DIR (environment) is not read",
        "BACKUP_AGE_RECIPIENTS (environment) is wrong at key 2",
        "BACKUP_AGE_IDENTITY_FILE (.env) names no file",
    ):
        assert part in said
    assert "yaml-token-1" not in said + redaction.redact("yaml-token-1")


@pytest.mark.parametrize("text", ["0", "-3", "3.5", "1_000", "thirty", "\uff19", "1e3", "99999999"])
def test_a_retention_that_is_not_a_positive_whole_number_is_refused(tmp_path: Path, text: str) -> None:
    assert "BACKUP_RETENTION (environment) is not a positive whole number" in faults(
        tmp_path, BACKUP_RETENTION=text
    )


@pytest.mark.parametrize(
    "text", ["host/health", "ftp://h/x", "https://", "http://h:99999/", "http://h/a b", "http://[x/"]
)
def test_a_health_url_that_is_no_web_address_is_refused(tmp_path: Path, text: str) -> None:
    assert "POLYLADDER_HEALTH_URL (environment) is not a web address" in faults(
        tmp_path, POLYLADDER_HEALTH_URL=text
    )


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (AGE, (AGE,)),
        (f"{AGE}, {AGE}\n{SSH} ops@laptop", (AGE, SSH)),
        (f"{SSH} {AGE}", (SSH, AGE)),
        (f"{SSH},{SSH} me@host {AGE},", (SSH, AGE)),
    ],
)
def test_recipients_are_separated_by_commas_or_blanks(
    tmp_path: Path, text: str, keys: tuple[str, ...]
) -> None:
    assert read(tmp_path, BACKUP_AGE_RECIPIENTS=text).backup_age_recipients == keys


@pytest.mark.parametrize(
    "text", [f"{SSH} age1typo", "ssh-ed25519", "ssh-dss AAAAB3", f"{AGE} # mine", AGE[:-20]]
)
def test_a_text_that_is_no_public_key_is_refused_and_never_taken_for_a_comment(
    tmp_path: Path, text: str
) -> None:
    assert "BACKUP_AGE_RECIPIENTS (environment) is wrong at key" in faults(
        tmp_path, BACKUP_AGE_RECIPIENTS=text
    )


def test_a_private_key_among_the_recipients_is_refused_and_not_shown(tmp_path: Path) -> None:
    key = "AGE-SECRET-KEY-1QQQSYQCYQ5RQWZQFPG9SCRGWPUGPZYSNZS23V9CCRYDPK8QARC0S6GNNXX"
    said = faults(tmp_path, BACKUP_AGE_RECIPIENTS=key)
    assert "holds a private key" in said
    assert "QQQSYQ" not in said


def test_a_list_in_invoke_yaml_is_a_list_of_recipients(tmp_path: Path) -> None:
    assert read(tmp_path, config={"backup_age_recipients": [AGE, SSH]}).backup_age_recipients == (AGE, SSH)
    assert read(tmp_path, config={"backup_retention": 12, "polyladder_org": None}).backup_retention == 12
    assert "polyladder (invoke.yaml) is not a section" in faults(tmp_path, config="backup_dir")


def test_somebody_elses_backup_variables_are_remembered_and_not_refused(tmp_path: Path) -> None:
    settings = read(tmp_path, BACKUP_DIRECTORY="/x", BACKUP_RETENTION_DAYS="3", POLYLADDERX="1")
    assert settings.unknown == ("BACKUP_DIRECTORY", "BACKUP_RETENTION_DAYS")
    # A forgotten S would mean backups in the clear.
    assert "did you mean BACKUP_AGE_RECIPIENTS?" in faults(tmp_path, BACKUP_AGE_RECIPIENT=AGE)


def test_site_sandbox_reads_nothing_that_leads_to_production_and_says_so(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgres://of-env\nBACKUP_RETENTION=3\nnot understood'\n")
    (tmp_path / ".env.sandbox").write_text("BACKUP_RETENTION=4\n")
    settings = read(
        tmp_path,
        {"site": "sandbox"},
        {"aws_s3_bucket": "bucket"},
        DATABASE_URL="postgres://u:pw@live/db",
        FLY_API_TOKEN="token-1",
        FLY_ACCESS_TOKEN="token-2",
        AWS_ACCESS_KEY_ID="id",
        AWS_CA_BUNDLE="/ca.pem",
        POLYLADDER_SCRATCH_URL="postgres://x",
        POLYLADDER_STATE_DIR=str(tmp_path / "state"),
    )
    assert settings.is_sandbox
    assert (settings.database_url, settings.scratch_url, settings.fly_api_token, settings.aws_s3_bucket) == (
        None,
    ) * 4
    assert settings.backup_retention == 30
    assert settings.backup_dir == tmp_path / "state" / "sandbox" / "backups"
    assert settings.ignored == (
        *("AWS_ACCESS_KEY_ID", "AWS_S3_BUCKET", "DATABASE_URL", "FLY_ACCESS_TOKEN", "FLY_API_TOKEN"),
        *("POLYLADDER_SCRATCH_URL", ".env", ".env.sandbox"),
    )


def test_a_dotenv_file_may_name_the_sandbox_and_is_then_read_no_further(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("POLYLADDER_SITE=sandbox\nDATABASE_URL=postgres://live/db\n")
    settings = read(tmp_path)
    assert (settings.site, settings.sources["POLYLADDER_SITE"]) == ("sandbox", ".env")
    assert settings.database_url is None
    assert read(tmp_path, {"site": "production"}).database_url == "postgres://live/db"


def test_a_missing_setting_is_asked_for_by_name(tmp_path: Path) -> None:
    assert read(tmp_path, DATABASE_URL="postgres://h/db").needed("DATABASE_URL") == "postgres://h/db"
    with pytest.raises(SettingsError, match=r"DATABASE_URL is not set(.|\n)*\.env\.staging"):
        read(tmp_path, {"site": "staging"}).needed("DATABASE_URL")


def test_no_secret_is_shown_by_the_rows_the_repr_or_any_text_that_is_redacted(tmp_path: Path) -> None:
    url = "postgres://u:s3cr%2Ft-pw@h/db"
    settings = read(
        tmp_path,
        DATABASE_URL=url,
        FLY_API_TOKEN="fly-token-77",
        POLYLADDER_HEALTH_URL="https://me:pass77@h/x",
    )
    rows = {row.variable: row for row in describe(settings)}
    assert [row.variable for row in describe(settings)] == [variable.name for variable in VARIABLES]
    assert rows["DATABASE_URL"].value == rows["FLY_API_TOKEN"].value == "********"
    assert rows["POLYLADDER_HEALTH_URL"].value == "https://********@h/x"  # the user may be a token
    assert rows["DATABASE_URL"].source == "environment"
    assert rows["POLYLADDER_ORG"].value == ""
    short = read(tmp_path, FLY_API_TOKEN="abc")  # too short for the redactor
    assert "abc" not in str(describe(short))
    shown = f"{rows} {settings!r} {settings}"
    assert "s3cr" not in shown
    assert "fly-token-77" not in shown
    for form in (url, "s3cr%2Ft-pw", "s3cr%2ft-pw", "s3cr/t-pw", "fly-token-77"):
        assert redaction.redact(f"<{form}>") == "<********>"


def test_ignored_and_overridden_secrets_are_hidden_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=postgres://u:weaker-secret@h/db\n")
    read(
        tmp_path,
        {"site": "sandbox"},
        DATABASE_URL="postgres://u:ignored-secret@h/db",
        AWS_SECRET_ACCESS_KEY="aws-kEy-1",
    )
    assert redaction.redact("weaker-secret ignored-secret aws-kEy-1") == "******** ******** ********"


def test_settings_can_not_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(read(tmp_path), "site", "other")  # noqa: B010 - the type checker knows already


@given(text=st.text(max_size=40))
def test_no_text_whatever_ends_in_anything_but_settings_or_a_fault_of_its_variable(text: str) -> None:
    for variable in VARIABLES:
        for flags, environ in (({}, {variable.name: text}), ({variable.attribute: text}, {})):
            if not (flags and variable.is_secret):
                with contextlib.suppress(SettingsError):
                    load(flags, environ=environ, root=Path(__file__).parent)


def test_the_module_imports_no_library_that_talks_to_the_world() -> None:
    code = "import polyladder_ops.settings, sys; print({'psycopg', 'boto3', 'fabric', 'rich', 'invoke'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("text", "site", "is_read"),
    [
        ("", {}, True),
        ("", {"site": "production"}, True),
        ("", {"site": "stagng"}, False),
        ("POLYLADDER_SITE=staging\n", {}, True),
        ("POLYLADDER_SITE=staging\n", {"site": "staging"}, True),
        ("POLYLADDER_SITE=staging\n", {"site": "production"}, False),
    ],
)
def test_a_file_for_all_sites_leads_to_the_database_of_one(
    text: str, site: dict[str, str], is_read: bool, tmp_path: Path
) -> None:
    """`restore --site=staging --allow-cross=production` replaced production's database, which `.env` named."""
    led = "DATABASE_URL=postgres://u:pw@live/db\nFLY_API_TOKEN=fm2_live\nPOLYLADDER_APP=live\nPOLYLADDER_HEALTH_URL=https://live.example\n"
    (tmp_path / ".env").write_text(f"{text}{led}BACKUP_RETENTION=3\n")
    found = read(tmp_path, site)
    assert [
        found.sources[name] == ".env"
        for name in ("DATABASE_URL", "FLY_API_TOKEN", "POLYLADDER_APP", "POLYLADDER_HEALTH_URL")
    ] == [is_read] * 4
    assert found.sources["BACKUP_RETENTION"] == ".env"


@pytest.mark.parametrize("text", ["ssh", "Fly", "direct,fly"])
def test_a_way_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    said = faults(tmp_path, POLYLADDER_ROUTE=text)
    assert "POLYLADDER_ROUTE (environment) is no way to a database; write direct or fly." in said


@pytest.mark.parametrize("text", ["a=b", "a/b", "#a", "x" * 64, "a\tb"])
def test_a_databases_name_that_programs_read_as_more_is_refused(tmp_path: Path, text: str) -> None:
    assert "POLYLADDER_DATABASE (environment) is no database's name" in faults(
        tmp_path, POLYLADDER_DATABASE=text
    )
    assert read(tmp_path, POLYLADDER_DATABASE="poly ladder").database == "poly ladder"
