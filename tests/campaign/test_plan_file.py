"""The file of a plan: what it says, and what is said of what is wrong in it."""

from pathlib import Path

import pytest

from multispin.campaign.plan import Cooperation
from multispin.campaign.plan_file import EXAMPLES, PlanFile, read_plan
from multispin_models.errors import ConfigError

GOOD = """name = "toy"
blocks = 2

[factors]
users = [1, 2]

[[devices]]
name = "bench"
copies = 2

[[arms]]
name = "alone"
kind = "centralised"

[[arms]]
name = "price"
kind = "cooperation"
policy = "price"
"""


def read(tmp_path: Path, text: str) -> PlanFile:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return read_plan(path)


def test_a_plan_is_read_with_its_defaults_and_named_by_its_bytes(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    [_, price] = file.plan.arms
    assert isinstance(price, Cooperation)
    assert (price.policy, price.verification, file.plan.factors.link) == ("price", None, ("none",))
    assert file.text == GOOD.encode()
    assert file.campaign_id == f"toy-{file.sha256[:12]}"
    assert read(tmp_path, GOOD + "\n").campaign_id != file.campaign_id


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("blocks = 2", "blocs = 2", r"line 2: blocs is unknown; allowed are name.*is blocks meant\?"),
        ("blocks = 2", "blocks = 0", r"line 2: blocks is 0; allowed: integers from 1 to 100000"),
        ("users = [1, 2]", "users = [0]", r"line 5: factors.users\[0\] is 0; allowed: integers from 1"),
        ("users = [1, 2]", "users = []", r"line 5: factors.users is empty; allowed is at least one"),
        ("users = [1, 2]", "users = [1, 1]", r"factors.users is \[1, 1\]; allowed is each level once"),
        ("users = [1, 2]", 'link = ["5m"]', r"line 5: factors.link has link '5m': allowed are a rate as 64kbit/s"),
        ("users = [1, 2]", 'policy = ["price"]', r"line 5: factors.policy concerns no arm"),
        ('policy = "price"', 'policy = "prize"', r"line 18: arms\[1\].policy is 'prize'; allowed: 'alone', 'exact'"),
        ('policy = "price"', 'polizy = "price"', r"line 18: arms\[1\].polizy is unknown; allowed are name, policy"),
        ('kind = "centralised"', 'kind = "central"', r"line 13: arms\[0\].kind is 'central'; allowed: 'centralised'"),
        ('name = "price"', 'name = "alone"', r"line 16: arms\[1\].name is 'alone' a second time"),
        ("copies = 2", "", r"device 'bench': give either copies"),
        ('[[arms]]\nname = "alone"\nkind = "centralised"', "", ""),
    ],
)
def test_a_fault_is_told_with_its_line_its_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if not said:  # a plan of one arm is a plan
        assert len(read(tmp_path, text).plan.arms) == 1
        return
    with pytest.raises(ConfigError, match=said) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"plan {tmp_path / 'plan.toml'}")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[[hypotheses]]\nname = "h"\narm = "prise"\nrival = "alone"\n', r"hypotheses\[0\].arm is 'prise'.*'price'"),
        ('[[hypotheses]]\nname = "h"\narm = "price"\nrival = "alone"\neffect = 0.0\n', r"effect is 0; allowed"),
        ("[models]\nmax_context_tokens = 64\n", r"models.max_context_tokens is 64; allowed is at least 321"),
        ('[arrivals]\nspacing = "poisson"\n', r"arrivals.*rate_per_s belongs to 'poisson'"),
        (
            '[[arms]]\nname = "core"\nkind = "single-node"\ndrafts = "model"\n[arrivals]\nspacing = "poisson"\n'
            "rate_per_s = 1.0\n",
            r"arms\[2\].drafts is 'model'; with arrivals.spacing 'poisson' allowed is 'lookup'",
        ),
        (
            '[[devices]]\nname = "far"\n[[devices.agents]]\nname = "pi"\nlaunch = ["ssh", "pi"]\n',
            r"models.reach is missing: agents elsewhere must be told where the coordinator is",
        ),
        (
            '[[devices]]\nname = "two"\n[[devices.agents]]\nname = "pi"\n[[devices.agents]]\nname = "pi"\n',
            r"devices\[1\].agents has the names pi, pi; allowed is each once",
        ),
        (
            '[[arms]]\nname = "x"\nkind = "external"\nurl = "ftp://h"\n',
            r"arms\[2\].url is 'ftp://h'; allowed: text that",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, GOOD + more)


def test_an_external_server_over_a_link_must_be_where_the_link_is(tmp_path: Path) -> None:
    arm = '[[arms]]\nname = "x"\nkind = "external"\nurl = "{}"\n'
    rate = GOOD.replace("users = [1, 2]", 'link = ["64kbit/s"]')
    with pytest.raises(ConfigError, match=r"arms\[2\].command is missing: over link 64kbit/s"):
        read(tmp_path, rate + arm.format("http://127.0.0.1:8080/v1"))
    delay = GOOD.replace("users = [1, 2]", 'link = ["20ms"]')
    with pytest.raises(ConfigError, match=r"arms\[2\].url is 'http://far:80/v1'; over link 20ms"):
        read(tmp_path, delay + arm.format("http://far:80/v1"))
    read(tmp_path, delay + arm.format("http://127.0.0.1:8080/v1"))


def test_a_plan_that_is_not_there_is_told_with_those_that_are_shipped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*shipped are .*loopback-smoke"):
        read_plan(tmp_path / "none.toml")


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.toml")))
def test_the_shipped_examples_are_valid(name: str) -> None:
    assert read_plan(Path(name)).plan.name == name
