"""The codes and their wording: what each one means in general, for ``secagg explain SA-dddd`` and for errors.

Texts keep in braces the names that an error fills in (``explanation``). The first digit of a code is the
exit code. Codes are a promise: one that was published keeps its meaning. Pure data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One error in words.

    Attributes:
        code: ``"SA-"`` and four digits.
        what: what happened, in one sentence.
        cause: why, with numbers.
        safe: whether the data is safe, and which model there is now.
        you_can: what the reader can do.
        they_can: what the others can do.
    """

    code: str
    what: str
    cause: str
    safe: str
    you_can: str
    they_can: str

    @property
    def exit(self) -> int:
        """Exit code of the process, 2 to 7."""
        return int(self.code[3])

    def text(self, *, width: int = 80, ended: bool = True) -> str:
        """Return the five lines, wrapped at ``width`` between words.

        Args:
            width: columns.
            ended: False leaves the exit code out, where nothing ends.
        """
        lines = _wrap(f"x {self.code}  ", self.what, width)
        lines += _wrap("  cause    ", self.cause, width)
        lines += _wrap("  safe     ", self.safe, width)
        lines += _wrap("  you can  ", self.you_can, width)
        lines += _wrap("  they can ", self.they_can, width)
        if not ended:
            return "\n".join(lines)
        verdict = f"exit {self.exit}"
        if len(lines[-1]) + len(verdict) + 2 > width:
            lines.append("")
        lines[-1] += verdict.rjust(width - len(lines[-1]))
        return "\n".join(lines)


def _wrap(label: str, sentence: str, width: int) -> list[str]:
    return textwrap.wrap(
        sentence,
        width=width,
        initial_indent=label,
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


NOTHING_LEFT = "yes: nothing left a silo; {model}"
SILO_KEPT = "yes: nothing of this round left {silo}; {model}"
MASKED = "yes: what arrived stays masked or encrypted and no sum was opened; {model}"
STOPPED = "yes: this silo answers no more of this attempt, and what it sent is masked or encrypted; {model}"
KEYS_STAY = "yes: no data is touched when a key is made, and a key that there is stays in use"
OPENED = (
    "yes: only silos open the sum, and some may have; they keep the model after it and say so when the "
    "round is run again"
)
NOBODY_ELSE = "nothing: no other party is involved"

_ENTRIES = (
    # --- 2: parameters, use, inputs ---------------------------------------------------------------
    Explanation(
        code="SA-2001",
        what="a parameter is unsafe, or contradicts another one",
        cause="a constructor checks its parameters and refuses before any round begins",
        safe=NOTHING_LEFT,
        you_can="give the named parameter a value inside its range",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2002",
        what="there are too few silos for a sum that hides each of them",
        cause="with n = 2 silos each could take its own update off the sum and read the other's",
        safe=NOTHING_LEFT,
        you_can="bring in silos: 3 at the least, 4 or more if a round is to survive a lost one",
        they_can="other data holders: join the roster",
    ),
    Explanation(
        code="SA-2003",
        what="the number of colluding silos c is out of its range",
        cause="every silo sees the sum, so c is at least 1; 2 silos must stay honest, so it is at most n - 2",
        safe=NOTHING_LEFT,
        you_can="leave `colluders` out, which takes max(1, floor((n - 1) / 3)), or choose 1 to n - 2",
        they_can="other data holders: join the roster, so that a larger c is possible",
    ),
    Explanation(
        code="SA-2004",
        what="the threshold t is out of its range",
        cause="with 2t <= n + c a lying coordinator could open two sums and subtract them",
        safe=NOTHING_LEFT,
        you_can="leave `threshold` out, which takes floor((n + c) / 2) + 1, the least that is safe",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2005",
        what="the number of honest silos behind a sum, k_min, is out of its range",
        cause="a sum over fewer than 2 honest silos is one silo's update; more than n - c cannot be had",
        safe=NOTHING_LEFT,
        you_can="leave `min_honest` out, which takes 2, or choose 2 to n - c",
        they_can="other data holders: join the roster, so that a larger k_min is possible",
    ),
    Explanation(
        code="SA-2006",
        what="these numbers do not fit the words they are summed in",
        cause="silos x weight cap x clip x steps of precision could exceed the modulus, and a sum would wrap",
        safe=NOTHING_LEFT,
        you_can="change what the text names; 64-bit words have the most room",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2007",
        what="a configuration file holds what is not accepted",
        cause="a file is checked as a whole before anything starts, and each problem is named with its line",
        safe="yes: nothing was started and nothing was sent",
        you_can="correct the lines that the text names, then type the command again",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2008",
        what="the run would need more memory than it may have",
        cause="what a process would hold is estimated before a run and compared with its memory_limit, which "
        "is what the machine has where nobody set it; each silo that is a process compares for itself",
        safe=NOTHING_LEFT,
        you_can="take what the text says would fit, or raise memory_limit if there is more; silos in one "
        "process can be processes of their own",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2009",
        what="what was typed does not fit the files, the job or the other parties",
        cause="options of a command are compared with this party's files and with what the parties agreed on",
        safe="yes: no data left this silo because of it",
        you_can="correct what the text names, then type the command again",
        they_can="the other parties: nothing, unless the text says so",
    ),
    Explanation(
        code="SA-2101",
        what="a call came in an order or with an argument that is not allowed",
        cause="sessions are single use and follow the phases of the protocol; names must be known ones",
        safe="yes: the call did nothing; {model}",
        you_can="follow the text; a session that ended is replaced by a new one, never reused",
        they_can=NOBODY_ELSE,
    ),
    Explanation(
        code="SA-2200",
        what="{silo} left {round}: its input cannot be encoded",
        cause="inputs are checked at the silo, before they are encoded and masked",
        safe=SILO_KEPT,
        you_can="correct what the trainer returns",
        they_can="{silo}: run the trainer alone on the same weights and look at what it returns",
    ),
    Explanation(
        code="SA-2201",
        what="{silo} left {round}: its input holds NaN",
        cause="one NaN would turn the mean of all silos into NaN; training diverged, or the data has gaps",
        safe=SILO_KEPT,
        you_can="hand in finite numbers; where training made them, lower its rate or clip its gradients",
        they_can="{silo}: look for missing values in the data, and at the loss of the trainer run alone",
    ),
    Explanation(
        code="SA-2202",
        what="{silo} left {round}: its input holds an infinity",
        cause="an infinity cannot be encoded; training diverged, or a logarithm or division met zero",
        safe=SILO_KEPT,
        you_can="hand in finite numbers; where training made them, lower its rate or clip its gradients",
        they_can="{silo}: look for zeros and outliers in the data, and at the loss of the trainer run alone",
    ),
    Explanation(
        code="SA-2203",
        what="{silo} left {round}: a value is beyond the bound that was declared for it",
        cause="the bound is what proves that no sum can wrap, so nothing beyond it is encoded",
        safe=SILO_KEPT,
        you_can="raise the clip, which costs precision or 64-bit words, or clip before handing in",
        they_can="{silo}: scale the data as the other silos do",
    ),
    Explanation(
        code="SA-2204",
        what="{silo} left {round}: its vector has another shape than was agreed",
        cause="all silos add up the same entries, so shapes are fixed when the run begins",
        safe=SILO_KEPT,
        you_can="hand in one shape at all silos; a model's layers stay as they are while it trains",
        they_can="{silo}: compare its shapes with those of the other silos",
    ),
    Explanation(
        code="SA-2205",
        what="{silo} left {round}: its input has a type that is not a real number",
        cause="vectors are float32 or float64; objects, text and complex numbers have no sum here",
        safe=SILO_KEPT,
        you_can="return a float32 or float64 NumPy vector from the trainer",
        they_can="{silo}: convert the trainer's result",
    ),
    Explanation(
        code="SA-2206",
        what="{silo} left {round}: its weight is not between 0 and the cap",
        cause="weights are scaled by the cap before they are encoded, so that none can wrap the sum",
        safe=SILO_KEPT,
        you_can="raise the weight cap, the same at every silo",
        they_can="{silo}: report at most the cap, or hand in the number of examples in larger units",
    ),
    Explanation(
        code="SA-2207",
        what="{silo} left {round}: its metrics cannot be encoded",
        cause="metrics have fixed places in the sum: one number each, the same names at all silos and rounds",
        safe=SILO_KEPT,
        you_can="return the same metric names from every evaluate(), each one a finite number",
        they_can="{silo}: compare the names its trainer returns with those of the other silos",
    ),
    Explanation(
        code="SA-2208",
        what="{silo} left {round}: its vector is not laid out as the global model",
        cause="an entry of the model came, went or moved since the run began",
        safe=SILO_KEPT,
        you_can="create every parameter and buffer before the run begins",
        they_can="{silo}: build the model as the other silos do",
    ),
    Explanation(
        code="SA-2209",
        what="{silo} left {round}: its trainer did not sample as the promised epsilon needs",
        cause="the bound of a sampled release rests on rows that the silo's own Poisson sampler drew",
        safe=SILO_KEPT,
        you_can="go on: the round finishes without {silo} while enough silos remain",
        they_can="{silo}: let the trainer take the rows of every step from the sampler that it is given",
    ),
    Explanation(
        code="SA-2210",
        what="this party's table cannot be learned from, or is not the one that was begun with",
        cause="columns that are learned from hold finite numbers, labels what the way of learning takes, and "
        "a job that was interrupted goes on with the table that it was begun with",
        safe="yes: no column, label or identifier left this silo because of it; {model}",
        you_can="do what the text says, then type the command again",
        they_can="the other parties: nothing, they wait",
    ),
    Explanation(
        code="SA-2301",
        what="{silo} left {round}: its trainer raised an error",
        cause="the trainer is the silo's own code; its text is not passed on, because it may quote data",
        safe=SILO_KEPT,
        you_can="go on: the round finishes without {silo} while enough silos remain",
        they_can="{silo}: look where the text says; the error's `original` has the whole traceback",
    ),
    # --- 3: environment ---------------------------------------------------------------------------
    Explanation(
        code="SA-3001",
        what="a file, a port, a connection or a device is missing or cannot be used",
        cause="this machine, or the network it is in, does not provide what is needed here",
        safe="yes: because of it nothing is sent and no sum is opened; {model}",
        you_can="do what the text says, then start again",
        they_can="whoever runs the machine: free or repair what the text names",
    ),
    Explanation(
        code="SA-3101",
        what="{package} is needed for this and is not installed",
        cause="it belongs to the optional extra [{extra}], which was not asked for at installation",
        safe=NOTHING_LEFT,
        you_can="pip install 'secagg[{extra}]'",
        they_can=NOBODY_ELSE,
    ),
    # --- 4: halted --------------------------------------------------------------------------------
    Explanation(
        code="SA-4001",
        what="{round} halted: a party left the protocol",
        cause="a message was received that nobody who follows the protocol sends",
        safe=MASKED,
        you_can="start the run again; if it returns, compare the versions of all parties",
        they_can="all silos: keep their logs, which show who sent what",
    ),
    Explanation(
        code="SA-4002",
        what="{round} halted: bytes from {silo} are not a message",
        cause="the bytes do not decode, or are larger than any message of this round",
        safe=MASKED,
        you_can="start the run again; if it returns, compare the versions of all parties",
        they_can="{silo}: update to the version of the others, and check the network's proxy",
    ),
    Explanation(
        code="SA-4003",
        what="{round} halted: a message from {silo} does not belong to this phase",
        cause="it was sent twice, too late, for another attempt, or by someone who is not in the round",
        safe=MASKED,
        you_can="start the run again; if it returns, compare the versions of all parties",
        they_can="{silo}: look whether two processes run under its name",
    ),
    Explanation(
        code="SA-4004",
        what="{round}: {silo} left the protocol and is named",
        cause="a signature, share, key or length of {silo} is not what it committed itself to",
        safe=MASKED,
        you_can="go on without {silo} while enough silos remain, and ask its operator",
        they_can="{silo}: check its version and its disk, and whether its identity key is still its own",
    ),
    Explanation(
        code="SA-4005",
        what="{round}: the secret shares that {silo} dealt do not fit together; it is named",
        cause="enough shares match its signed commitments, and yet they do not give the secret it announced",
        safe=MASKED,
        you_can="go on: the next attempt leaves {silo} out while enough silos remain",
        they_can="{silo}: update to the version of the others; the proof against it is signed by itself",
    ),
    Explanation(
        code="SA-4006",
        what="{round}: either {silo} or the coordinator left the protocol",
        cause="a silo receives the others' messages through the coordinator and cannot tell the two apart",
        safe=MASKED,
        you_can="try again; if it returns, compare logs with {silo} by telephone, not by the coordinator",
        they_can="{silo} and the coordinator: compare what was sent with what was passed on",
    ),
    Explanation(
        code="SA-4101",
        what="{round} halted: the sum cannot be formed",
        cause="what was opened is not a sum over these silos, and nobody can be named for it",
        safe="yes: no average was made; {model}",
        you_can="correct what the text names, or start again: a new attempt takes new keys",
        they_can="all silos: stay connected until the round is finished",
    ),
    Explanation(
        code="SA-4102",
        what="{round} halted: {have}{of} silos answered, {need} are needed in {phase}",
        cause="more silos were lost, or silent for phase_seconds, than n - max(t, k_min + c), all that a "
        "round survives",
        safe=MASKED,
        you_can="run again once that is mended; the threshold cannot be lowered inside a run",
        they_can="{silos}: come back, or correct the cause",
    ),
    Explanation(
        code="SA-4103",
        what="{round} halted: the run was stopped on purpose",
        cause="somebody halted the run, or stopped the coordinator's process",
        safe=MASKED,
        you_can="go on where it is: coordinator run resume, or start the coordinator again",
        they_can="all silos: nothing, they wait",
    ),
    Explanation(
        code="SA-4104",
        what="no key was made: {have}{of} silos took part, and it takes all of them",
        cause="a key that one silo lacks is of no use where every silo encrypts under it",
        safe=KEYS_STAY,
        you_can="type it again once that is mended; coordinator status lists who is connected",
        they_can="{silos}: come back, or correct the cause",
    ),
    Explanation(
        code="SA-4105",
        what="{silo} ended what the parties did together",
        cause="a rule of {silo}'s policy, trouble at its place, or somebody's fault",
        safe="yes: the parties learned what they had learned until then and nothing more; {model}",
        you_can="ask its operator what its log says, then start the command again",
        they_can="{silo}: correct the cause, then start the command again",
    ),
    Explanation(
        code="SA-4106",
        what="not all parties came: {silos}",
        cause="they did not join the meeting, or did not come back to it, for as long as this silo waits",
        safe="yes: nothing is said before all parties are there; {model}",
        you_can="ask for the same command at every party, or wait longer with --wait",
        they_can="{silos}: start the same command, with the same meeting and parties",
    ),
    # --- 5: trust ---------------------------------------------------------------------------------
    Explanation(
        code="SA-5001",
        what="a certificate, token or key is not the one that was confirmed",
        cause="it differs from the pin kept here",
        safe=NOTHING_LEFT,
        you_can="compare fingerprints by telephone before you pin anything new",
        they_can="the other side: say whether its key was renewed, and read its fingerprint out",
    ),
    Explanation(
        code="SA-5101",
        what="{round} stopped: the coordinator left the protocol",
        cause="it sent what no honest coordinator sends: changed parameters, lists, keys or signatures",
        safe=STOPPED,
        you_can="keep the log and stop taking part until it is understood",
        they_can="the coordinator's operator: explain it; the other silos: compare their logs with yours",
    ),
    # --- 6: policy --------------------------------------------------------------------------------
    Explanation(
        code="SA-6001",
        what="{silo} refused {round}: its rule `{rule}` says no",
        cause="each silo's policy is its own and cannot be widened from outside",
        safe=SILO_KEPT,
        you_can="propose a round that keeps the rule, or go on without {silo}",
        they_can="{silo}: read its policy and decide whether to change the rule",
    ),
    Explanation(
        code="SA-6002",
        what="{silo} refused {round}: it signed another set of silos for this data and model",
        cause="two sums over different sets for one model would differ by single silos' updates",
        safe=MASKED,
        you_can="wait until these return and run the round with the same set: {silos}; or begin a new run",
        they_can="{silos}: come back, or sign that they released nothing",
    ),
    Explanation(
        code="SA-6003",
        what="{silo} refused {round}: its roster is not the one pinned there",
        cause="a silo was added, swapped, renamed or left out, or has another identity key",
        safe=SILO_KEPT,
        you_can="compare the roster's digest with {silo} by telephone",
        they_can="{silo}: pin the new roster once its members' fingerprints are confirmed",
    ),
    Explanation(
        code="SA-6004",
        what="{silo} refused {round}: the scheme is not one it allows",
        cause="a silo lists the schemes it takes part in; Plain, which protects nothing, is never implied",
        safe=SILO_KEPT,
        you_can="choose a scheme that all silos allow, for example Masking()",
        they_can="{silo}: add the scheme to its policy",
    ),
    Explanation(
        code="SA-6005",
        what="{silo} refused {round}: there are fewer silos than it accepts",
        cause="n is always the size of the roster pinned at the silo, and has a floor there",
        safe=SILO_KEPT,
        you_can="invite the whole roster",
        they_can="{silo}: lower its min_silos, to 3 at the least",
    ),
    Explanation(
        code="SA-6006",
        what="{silo} refused {round}: `{rule}` is below its floor",
        cause="c, t and k_min decide who must collude to read one silo; each silo has its own least values",
        safe=SILO_KEPT,
        you_can="take the largest value that any silo asks for",
        they_can="{silo}: lower its floor, never below what the protocol promises",
    ),
    Explanation(
        code="SA-6007",
        what="{silo} refused {round}: the clip is above its cap",
        cause="the clip bounds how much one silo gives away about its data",
        safe=SILO_KEPT,
        you_can="lower the clip",
        they_can="{silo}: raise its max_clip",
    ),
    Explanation(
        code="SA-6008",
        what="{silo} refused {round}: the encoding is not proven for its roster",
        cause="with more silos than it was planned for, a sum could wrap",
        safe=SILO_KEPT,
        you_can="plan the encoding for all silos of the roster",
        they_can="{silo}: nothing, its check is right",
    ),
    Explanation(
        code="SA-6009",
        what="{silo} refused {round}: it already gave a release of this model",
        cause="a second release of one model without differential privacy could be subtracted from the first",
        safe=SILO_KEPT,
        you_can="begin a new run, which starts from a freshly seeded model",
        they_can="{silo}: nothing without differential privacy",
    ),
    Explanation(
        code="SA-6010",
        what="{silo} refused {round}: the training code is not approved there",
        cause="each silo runs only code that its people approved, by the hash of its source",
        safe=SILO_KEPT,
        you_can="name an app that all silos have approved, or go on without {silo}",
        they_can="{silo}: read the source, then put its line under [policy.apps] of silo.toml",
    ),
    Explanation(
        code="SA-6011",
        what="{silo} refused {round}: the weight cap is below its floor",
        cause="a cap that a silo's examples could exceed would tell by its refusal that they do",
        safe=SILO_KEPT,
        you_can="raise weight_cap",
        they_can="{silo}: lower its min_weight_cap, never below what it could ever have",
    ),
    Explanation(
        code="SA-6012",
        what="{silo} refused {round}: the key that it names cannot be used there",
        cause="a key has a lifetime, a roster, a scheme, and a number of sums that may be published under it",
        safe=SILO_KEPT,
        you_can="make a key of all silos and begin again: coordinator key make --scheme ...",
        they_can="{silo}: look at silo key list; a lost key comes from a peer, but for a share of one",
    ),
    Explanation(
        code="SA-6013",
        what="{silo} refused a key ceremony: its maker is not in the roster pinned there",
        cause="the maker sees the whole key while it makes it, so it must be a silo that is pinned there",
        safe=SILO_KEPT,
        you_can="name a silo of the roster as the maker: coordinator key make --maker ...",
        they_can="{silo}: nothing, its check is right; compare rosters if the maker should be in it",
    ),
    Explanation(
        code="SA-6014",
        what="no key was made: policies refused it",
        cause="each silo's policy is its own, and by default it allows masking alone",
        safe=KEYS_STAY,
        you_can="type it again once they allow it, or make a key that all of them allow",
        they_can="{silos}: change the rule in [policy] of silo.toml, then start the silo again",
    ),
    Explanation(
        code="SA-6015",
        what="{silo} refused {round}: it would take more memory than its process may hold",
        cause="what a round takes at a silo follows from its length and scheme, and is compared before the "
        "silo trains",
        safe=SILO_KEPT,
        you_can="take a smaller model or another scheme: secagg estimate compares them",
        they_can="{silo}: raise memory_limit in silo.toml if the machine has more",
    ),
    Explanation(
        code="SA-6016",
        what="{silo} refused {round}: its differential privacy is not what that silo takes part in",
        cause="a silo may ask for differential privacy in every round; the training code must be able to "
        "give what the noise needs, and shares of noise hide nothing from a coordinator that reads uploads",
        safe=SILO_KEPT,
        you_can="ask for a privacy mode that every silo can do: [privacy] in job.toml, privacy= in Python",
        they_can="{silo}: set require_privacy to false, or approve training code that has the method",
    ),
    Explanation(
        code="SA-6017",
        what="{silo} refused {round}: the clip norm is above its cap",
        cause="the clip norm bounds how much one silo or record gives away before the noise hides it",
        safe=SILO_KEPT,
        you_can="lower l2_clip_norm",
        they_can="{silo}: raise its max_l2_clip_norm",
    ),
    Explanation(
        code="SA-6018",
        what="{silo} refused {round}: the privacy ledger of {silos} was put back to an older state",
        cause="a ledger that forgets what was spent would let the same data be released again; peers hold "
        "its last head",
        safe=SILO_KEPT,
        you_can="go on without {silos} until its ledger is whole",
        they_can="{silos}: put the newest copy of the ledger in its place; the others then: silo ledger "
        "trust {silos}",
    ),
    Explanation(
        code="SA-6019",
        what="no intersection: the rule `{rule}` of one of its parties says no",
        cause="each silo limits who may look for shared records, how many they bring, and how few are told",
        safe="yes: which records are shared was not told to whom the rule refuses it",
        you_can="if the rule is this silo's own, change [intersections] of silo.toml, or leave it as it is",
        they_can="the party whose rule it is: the same in its own silo.toml",
    ),
    Explanation(
        code="SA-6020",
        what="this silo takes no part in the vertical job: its rule `{rule}` says no",
        cause="the job file says how well columns and labels are protected, each silo how well they must be",
        safe="yes: nothing was read and nothing left this silo",
        you_can="ask for more protection in the job file, the same at every party; or change [vertical] of "
        "silo.toml, if this silo may show more",
        they_can="the other parties: take the job file that was agreed on",
    ),
    # --- 7: privacy budget ------------------------------------------------------------------------
    Explanation(
        code="SA-7001",
        what="{silo} refused {round}: its privacy budget is spent",
        cause="the ledger of this data set has less epsilon left than the round would cost",
        safe=SILO_KEPT,
        you_can="end the run with the model there is, or plan rounds with more noise",
        they_can="{silo}: decide whether its data may spend more",
    ),
)

CATALOGUE: Mapping[str, Explanation] = MappingProxyType({entry.code: entry for entry in _ENTRIES})
"""Code -> its wording, with the names an error fills in still in braces."""

NOT_BACK = replace(
    CATALOGUE["SA-4106"],
    what="not all parties came back: {silos}",
    safe="yes: the parties learned what they had learned until then and nothing more; {model}",
    you_can="type the same command again: it goes on from what is kept; or wait longer with --wait",
    they_can="{silos}: type the same command again",
)
"""SA-4106 where all parties had met before."""
