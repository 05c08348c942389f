import pytest

from helpers import settings
from helpers.errors import SettingsError


def test_nobody_spends_money_by_accident():
    loaded = settings.load({})
    assert loaded.target == "rehearsal"
    assert loaded.speed == 60
    assert loaded.region is None
    assert loaded.results_dir == loaded.root / "results"
    assert loaded.state_dir == loaded.root / ".rehearsal"


def test_arguments_win_over_the_environment():
    environ = {"WORKSHOP_TARGET": "aws", "WORKSHOP_REGION": "eu-west-1"}
    loaded = settings.load(environ, target="rehearsal", region="us-west-2")
    assert (loaded.target, loaded.region) == ("rehearsal", "us-west-2")


def test_an_identity_that_there_is_not_is_refused():
    assert settings.load({}).identity == "participant"
    assert settings.load({"WORKSHOP_IDENTITY": "laptop"}).identity == "laptop"
    assert settings.load({"WORKSHOP_IDENTITY": "laptop"}, identity="admin").identity == "admin"
    with pytest.raises(SettingsError, match="participant, instructor, laptop, admin"):
        settings.load({"WORKSHOP_IDENTITY": "root"})


def test_the_workshops_region_wins_over_aws_own():
    environ = {"AWS_DEFAULT_REGION": "us-east-2", "AWS_REGION": "us-west-2"}
    assert settings.load(environ).region == "us-west-2"
    assert settings.load({**environ, "WORKSHOP_REGION": "eu-west-1"}).region == "eu-west-1"


def test_everything_can_be_set_in_the_environment(tmp_path):
    loaded = settings.load(
        {
            "WORKSHOP_TARGET": " AWS ",
            "WORKSHOP_PARTICIPANT": "anna",
            "WORKSHOP_ROLE_ARN": "arn:aws:iam::123456789012:role/x",
            "WORKSHOP_SPEED": "20",
            "WORKSHOP_RESULTS": str(tmp_path / "r"),
            "WORKSHOP_STATE": str(tmp_path / "s"),
            "AWS_ENDPOINT_URL": "http://127.0.0.1:4566",
        }
    )
    assert loaded.target == "aws"
    assert loaded.participant == "anna"
    assert loaded.role_arn.endswith("role/x")
    assert loaded.speed == 20
    assert loaded.results_dir == tmp_path / "r"
    assert loaded.state_dir == tmp_path / "s"
    assert loaded.endpoint_url == "http://127.0.0.1:4566"


def test_an_empty_variable_counts_as_absent():
    assert settings.load({"WORKSHOP_TARGET": "", "WORKSHOP_SPEED": " "}).speed == 60


@pytest.mark.parametrize("target", ["prod", "AWSS", "reherasal"])
def test_a_misspelt_target_is_refused_and_never_taken_for_aws(target):
    with pytest.raises(SettingsError, match="`rehearsal`"):
        settings.load({"WORKSHOP_TARGET": target})


@pytest.mark.parametrize("speed", ["0", "-3", "fast", "nan", "inf", "1e18", "86401"])
def test_a_speed_that_makes_no_sense_is_refused(speed):
    with pytest.raises(SettingsError, match="WORKSHOP_SPEED"):
        settings.load({"WORKSHOP_SPEED": speed})


def test_what_was_chosen_once_holds_for_the_next_notebook(tmp_path):
    here = {"WORKSHOP_STATE": str(tmp_path), "AWS_REGION": "us-west-2"}
    settings.remember(tmp_path, "aws", choose=True, region="eu-west-1", participant="anna")
    settings.remember(tmp_path, "aws", choose=True, role_arn="arn:aws:iam::123456789012:role/x")
    loaded = settings.load(here)
    assert (loaded.target, loaded.region, loaded.participant) == ("aws", "eu-west-1", "anna")
    assert loaded.role_arn.endswith("role/x")
    assert loaded.target_remembered


def test_the_environment_and_an_argument_overrule_what_was_chosen(tmp_path):
    settings.remember(tmp_path, "aws", choose=True, region="eu-west-1")
    here = {"WORKSHOP_STATE": str(tmp_path)}
    loaded = settings.load({**here, "WORKSHOP_TARGET": "rehearsal"})
    assert (loaded.target, loaded.target_remembered) == ("rehearsal", False)
    assert settings.load(here, region="us-east-1").region == "us-east-1"
    assert not settings.load(here, target="aws").target_remembered


def test_what_was_chosen_for_aws_is_not_used_in_rehearsal(tmp_path):
    role_arn = "arn:aws:iam::123456789012:role/x"
    settings.remember(
        tmp_path, "aws", choose=True, region="eu-west-1", participant="anna", role_arn=role_arn
    )
    loaded = settings.load({"WORKSHOP_STATE": str(tmp_path)}, target="rehearsal")
    assert (loaded.region, loaded.participant, loaded.role_arn) == (None, None, None)


def test_a_target_is_forgotten_and_its_choices_are_not(tmp_path):
    here = {"WORKSHOP_STATE": str(tmp_path)}
    settings.forget_target(tmp_path)
    assert not list(tmp_path.iterdir())
    settings.remember(tmp_path, "aws", choose=True, region="eu-west-1")
    assert settings.load(here, recall_target=False).target == "rehearsal"
    settings.forget_target(tmp_path)
    assert settings.load(here).target == "rehearsal"
    assert settings.load(here, target="aws").region == "eu-west-1"


@pytest.mark.parametrize("text", ["[]", '{"target": "mars", "aws": 1, "rehearsal": {"x": "y"}}'])
def test_choices_that_make_no_sense_are_none(tmp_path, text):
    (tmp_path / "choices.json").write_text(text)
    assert settings.load({"WORKSHOP_STATE": str(tmp_path)}).target == "rehearsal"


def test_choices_that_cannot_be_read_are_one_sentence(tmp_path):
    (tmp_path / "choices.json").write_text("{")
    with pytest.raises(SettingsError, match="remove"):
        settings.load({"WORKSHOP_STATE": str(tmp_path)})
