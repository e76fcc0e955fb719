"""The words of this project, each in a few sentences, for ``secagg explain WORD``.

Every label of a round report and every phase is here. The words are those of ``docs/protocol.md``, which says
the same exactly. Pure data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Term:
    """One word.

    Attributes:
        name: as it is written in the middle of a sentence.
        meaning: a few sentences.
        also: other words for it, and what a report calls it.
        see: names of related terms.
    """

    name: str
    meaning: str
    also: tuple[str, ...] = ()
    see: tuple[str, ...] = ()

    def text(self, *, width: int = 80) -> str:
        """Return the entry, wrapped at ``width`` between words."""
        heading = ", ".join((self.name, *self.also))
        related = f"see {', '.join(self.see)}" if self.see else ""
        return "\n".join(
            line
            for paragraph, indent in ((heading, ""), (self.meaning, "  "), (related, "  "))
            for line in textwrap.wrap(
                paragraph,
                width=width,
                initial_indent=indent,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        )


_TERMS = (
    Term(
        "adversary level",
        "L0: the coordinator follows the protocol and keeps what it sees. L1: it also lies, to anyone. In "
        "both it may be together with c silos, but where silos share one key any one of them with it reads "
        "every update: those schemes are L0, and say so first.",
        ("L0", "L1", "level"),
        ("colluders", "shared key", "who reads"),
    ),
    Term(
        "AdvertiseKeys",
        "The phase in which silos draw fresh keys for one attempt and sign them. The coordinator passes the "
        "public halves on.",
        see=("attempt", "identity key"),
    ),
    Term(
        "attempt",
        "One run of the protocol, from fresh keys to an opened sum. A round whose attempt fails makes "
        "another one, a bounded number of times; nobody trains again for it.",
        see=("round", "void"),
    ),
    Term(
        "base model",
        "The weights from which a round starts. A silo signs one survivor set for each data set and base "
        "model, whatever the round or job is called.",
        ("base",),
        ("lock", "digest"),
    ),
    Term(
        "box",
        "A share sealed for the one silo that may read it (AES-256-GCM); the coordinator passes it on "
        "unread. Each key seals one box.",
        see=("share", "share set"),
    ),
    Term(
        "ciphertext",
        "What an encrypted vector is sent as. Ciphertexts under one key can be added by whoever has no key; "
        "the sum is opened with the key (Paillier, CKKS) or with t shares of it (ThresholdPaillier).",
        see=("shared key", "threshold key"),
    ),
    Term(
        "clip",
        "The largest magnitude of one entry of an update, and so of what one silo adds to the sum. A mean "
        "cuts entries beyond it and counts the share that it cut; secure_sum refuses them.",
        ("clipped",),
        ("weight cap", "head-room"),
    ),
    Term(
        "clip norm",
        "With differential privacy, the largest L2 norm of the gradient of one record, or of the update of "
        "one silo. Longer ones are scaled down; the noise is a multiple of it.",
        ("l2_clip_norm", "max_l2_clip_norm"),
        ("noise multiplier", "clip"),
    ),
    Term(
        "cohort",
        "The n silos of a round with the numbers that protect them: c, t and k_min. n is the size of the "
        "pinned roster, whoever is present, so that nobody can be talked into a smaller one.",
        ("n",),
        ("roster", "colluders", "threshold", "honest silos"),
    ),
    Term(
        "colluders",
        "Silos that share all they hold with the coordinator. Up to c of them learn no more than sums over "
        "the honest ones. Every silo sees the sum, so c is at least 1.",
        ("c",),
        ("honest silos", "threshold"),
    ),
    Term(
        "commitment",
        "A hash that fixes a share before anybody sees it. A share that does not fit its commitment proves "
        "who sent it wrong.",
        see=("share set", "evidence"),
    ),
    Term(
        "ConsistencyCheck",
        "The phase in which each survivor signs the survivor set that it was told. Without t signatures "
        "over one set no silo gives out a share.",
        see=("survivor set", "lock"),
    ),
    Term(
        "coordinator",
        "Who passes messages on and adds up. It holds no key; under Masking and ThresholdPaillier it cannot "
        "read what it adds, also if it lies.",
        see=("silo", "who reads"),
    ),
    Term(
        "count entry",
        "A 1 that each silo puts behind its vector before it is masked or encrypted. In the sum it must be "
        "the number of survivors; otherwise some vector was not made for this round and no model is "
        "written.",
        see=("MaskedInput",),
    ),
    Term(
        "dealer",
        "The silo that makes the key and hands out its shares, or whose secret a share is of. Who dealt a "
        "threshold key had all of it once, and nobody can prove that it was erased.",
        see=("threshold key", "share set"),
    ),
    Term(
        "differential privacy",
        "A proven bound on what the opened sum itself tells about one record or one silo; it takes noise "
        "in the sum. Masks do not give it: they hide a silo's part, not what the sum says. It comes with "
        "epsilon, delta, the unit that is hidden, and what data sets count as neighbours.",
        ("privacy", "LocalDPSGD", "DistributedDP"),
        ("epsilon", "privacy ledger", "noise multiplier", "clip norm", "who reads"),
    ),
    Term(
        "digest",
        "A SHA-256 over a text that says what is hashed, and fields in a fixed order. Two parties with "
        "equal digests hold the same roster, terms or model.",
        see=("fingerprint", "roster", "terms"),
    ),
    Term(
        "EncryptedInput",
        "The phase in which silos send their encoded vectors, encrypted and signed; the coordinator adds "
        "them up as they come.",
        see=("ciphertext", "count entry"),
    ),
    Term(
        "epsilon",
        "How much the chance of any outcome may change, as a factor of e to the epsilon, if one unit of the "
        "data is replaced by an empty one; delta is the chance that it changes more. 1 is strong, 8 is "
        "usual, 20 says little.",
        ("delta",),
        ("differential privacy", "privacy ledger"),
    ),
    Term(
        "estimate",
        "What a round will cost under each scheme, before it is run: bytes by formula, seconds from recorded "
        "benchmarks, memory from what is held. `secagg estimate` prints it.",
        ("memory",),
        ("scheme", "traffic"),
    ),
    Term(
        "evidence",
        "A share set that its dealer signed, with t openings that fit it and do not give back what was "
        "shared. Any silo can check it alone; it convicts the dealer and nobody else.",
        see=("commitment", "lock"),
    ),
    Term(
        "fingerprint",
        "Half of the SHA-256 of a public key, as eight groups of four hexadecimal digits, to be read out "
        "and compared over the telephone before the key is pinned.",
        see=("identity key", "roster"),
    ),
    Term(
        "fixed point",
        "Reals are rounded to whole multiples of a step, 2^-bits, and added as integers modulo 2^32 or "
        "2^64. The step is planned so that no sum can wrap.",
        ("encoding", "numbers", "entries"),
        ("head-room", "worst error"),
    ),
    Term(
        "head-room",
        "How far the largest possible sum stays below the point where it would wrap, in bits; 1 bit is a "
        "factor of 2. It is never negative: an encoding that could wrap is refused.",
        see=("fixed point", "clip", "weight cap"),
    ),
    Term(
        "honest silos",
        "Silos that follow the protocol. k, the survivors less c, of them are in a sum at the least; k_min "
        "is the smallest k that is accepted, never below 2.",
        ("k", "k_min", "min_honest"),
        ("colluders", "survivor set"),
    ),
    Term(
        "identity key",
        "The Ed25519 key that a silo makes for itself and signs with. Its public half stands in every "
        "roster.",
        see=("fingerprint", "roster"),
    ),
    Term(
        "journal",
        "What a silo writes down and syncs before a reply leaves it, so that a crash cannot make it sign or "
        "release twice.",
        see=("lock", "release"),
    ),
    Term(
        "key ceremony",
        "How silos make the key of an encrypted scheme: one makes it, and each gets it, or its share of it, "
        "sealed through the coordinator, which learns none of it. All of the roster take part. An operator "
        "types `coordinator key make`.",
        see=("dealer", "rotation", "shared key", "threshold key"),
    ),
    Term(
        "lock",
        "A silo that signed a survivor set for a data set and base model signs no other one for them, "
        "across attempts, rounds and jobs: the difference of two sums would be single silos' updates. It "
        "lifts when every round that was signed under it is void, and moves on when evidence takes a dealer "
        "out of the set.",
        see=("survivor set", "void", "evidence"),
    ),
    Term(
        "lost",
        "A silo that did not finish a round: silent in the phase that stands beside it, refusing by its own "
        "policy, or faulty. Up to n - max(t, k_min + c) may be lost in a round.",
        ("dropout",),
        ("survivor set", "Refused"),
    ),
    Term(
        "MaskedInput",
        "The phase in which silos send their encoded vectors under all masks; the coordinator adds them up "
        "as they come. It is the only large upload.",
        see=("pairwise mask", "self mask", "count entry"),
    ),
    Term(
        "metric",
        "A number that a trainer reports about a model, as loss or accuracy. Metrics travel inside the sum "
        "and are opened as a mean, weighted by evaluation examples; texts show the digits that its error "
        "allows.",
        ("metric_error",),
        ("saturated", "worst error"),
    ),
    Term(
        "noise multiplier",
        "With differential privacy, the standard deviation of the noise in a sum over what one unit can move "
        "it by. Found from epsilon, delta and rounds before a run.",
        ("noise",),
        ("clip norm", "epsilon"),
    ),
    Term(
        "Opened",
        "The phase in which survivors open the encrypted sum themselves and say that they did; the "
        "coordinator learns only that. All open the same sum, so all make the same model.",
        see=("PartialDecryption", "shared key"),
    ),
    Term(
        "pairwise mask",
        "A stream that two silos derive from their keys: one adds it, the other subtracts it, so it "
        "vanishes in the sum of both. If one of them is lost, t silos give shares of its mask key, and the "
        "stream is taken out.",
        ("mask",),
        ("self mask", "share"),
    ),
    Term(
        "PartialDecryption",
        "The phase in which each survivor adds the signed uploads itself, opens its part of the sum with its "
        "share of the key, proves that the part is right, and seals it to the others. t parts give the sum.",
        see=("threshold key", "release"),
    ),
    Term(
        "PlainInput",
        "The phase of Plain in which silos send their encoded vectors in clear.",
        see=("PlainSum", "scheme"),
    ),
    Term(
        "PlainSum",
        "The last message of Plain: the sum and its survivors, to every silo.",
        see=("PlainInput",),
    ),
    Term(
        "policy",
        "A silo's own floors and caps: schemes, roster, n, c, t, k_min and clip. Nobody can widen it from "
        "outside; what it refuses, it refuses before anything of the data has left.",
        see=("Refused", "roster"),
    ),
    Term(
        "privacy ledger",
        "A silo's list of what was released of one data set, over all jobs: charged before anything leaves, "
        "never reset. `silo ledger show` prints it; its signed head goes with every ConsistencyCheck, so "
        "that peers find one that was put back.",
        ("ledger", "budget", "head"),
        ("epsilon", "policy", "journal"),
    ),
    Term(
        "Refused",
        "A silo's answer when it leaves a round. It says the rule, such as `lock` or `threshold`, and never "
        "a value of the data.",
        see=("policy", "lost"),
    ),
    Term(
        "release",
        "A silo releases a round when it gives its shares for it, once. What it released it cannot void.",
        see=("Unmasking", "void"),
    ),
    Term(
        "roster",
        "The ordered list of all silos with their identity keys. Every silo pins its own copy, confirmed "
        "out of band; a round under another roster is refused.",
        see=("cohort", "fingerprint", "slot"),
    ),
    Term(
        "rotation",
        "A key ceremony whose key replaces the last one of its scheme. Rounds that begin later use the new "
        "one; silos keep the old one to the end of its lifetime.",
        ("rotate",),
        ("key ceremony",),
    ),
    Term(
        "round",
        "One sum, opened once: a training round, the final metrics, or a bare sum. It may take several "
        "attempts.",
        see=("attempt", "round report"),
    ),
    Term(
        "round id",
        "A digest of the keys, terms and share sets that a silo was told in an attempt. Masks and "
        "signatures are bound to it, so silos that were told different things share no sum.",
        see=("attempt", "digest"),
    ),
    Term(
        "round report",
        "What one opened sum cost and promised: n, t, c and k, who can read one update, rounding, bytes and "
        "seconds of each phase. Nothing in it belongs to one silo but whether it took part.",
        ("report",),
        ("who reads", "worst error", "traffic"),
    ),
    Term(
        "saturated",
        "A metric beyond the declared range (metric_bound) was cut to its end; the report says how many, "
        "because their mean is then not the true one.",
        ("beware", "metric_bound", "out of range"),
        ("metric",),
    ),
    Term(
        "scheme",
        "The protection of a round: Masking, Paillier, ThresholdPaillier, CKKS, or Plain, which protects "
        "nothing. `secagg explain masking` prints what it promises and costs.",
        see=("policy", "adversary level"),
    ),
    Term(
        "seconds",
        "Time on the clock in each phase. Where silos and coordinator run in one process it is that of all "
        "of them together.",
        see=("traffic",),
    ),
    Term(
        "secure aggregation",
        "Adding vectors of several parties so that only the sum is learned, by the parties and by whoever "
        "adds.",
        see=("scheme", "differential privacy"),
    ),
    Term(
        "self mask",
        "A stream that only its silo can make, from a seed whose shares the others hold. It keeps a vector "
        "closed that arrives after its silo was taken for lost and its mask key was given back.",
        see=("pairwise mask", "share", "Unmasking"),
    ),
    Term(
        "share",
        "A part of a secret that tells nothing alone; any t of them give it back (Shamir). Silos share the "
        "seed of their self mask and their mask key. Of any one silo only one of the two is ever opened.",
        see=("threshold", "box", "share set"),
    ),
    Term(
        "share set",
        "What a dealer signs about its shares: a commitment to each, and a digest of each box.",
        see=("share", "commitment", "evidence"),
    ),
    Term(
        "shared key",
        "One secret key that every silo holds and the coordinator does not (Paillier, CKKS). Whoever holds "
        "it can open any single update that reaches it, so the coordinator must follow the protocol.",
        see=("adversary level", "threshold key"),
    ),
    Term(
        "ShareKeys",
        "The phase in which each silo splits its seed and its mask key among all silos, in sealed boxes.",
        see=("share", "box"),
    ),
    Term(
        "silo",
        "A party that holds data: a hospital, a bank. Its data never leave it; what it sends of them is "
        "masked or encrypted, but under Plain.",
        ("data holder",),
        ("coordinator", "roster"),
    ),
    Term(
        "slot",
        "A silo's position in the roster, from 0. It decides the sign of pairwise masks and the index of "
        "shares.",
        see=("roster",),
    ),
    Term(
        "SumOpened",
        "The last message of a round: the opened sum with its survivors and their signatures. It goes to "
        "every silo that shared keys, also to those that were lost later.",
        see=("Unmasking", "survivor set"),
    ),
    Term(
        "survivor set",
        "The silos whose vectors are in the sum, at least max(t, k_min + c) of them, signed by at least t.",
        ("survivors", "smallest"),
        ("lock", "lost"),
    ),
    Term(
        "terms",
        "What a round is: job, number, base model, roster, scheme, encoding and training settings. A silo "
        "checks them against its policy, and everything that it signs later is bound to them.",
        see=("policy", "digest"),
    ),
    Term(
        "threshold",
        "t, how many silos must answer to open a sum. With 2t > n + c any two sets of t answers have an "
        "honest silo in common, and it answers once; so there are no two sums to subtract.",
        ("t",),
        ("colluders", "share"),
    ),
    Term(
        "threshold key",
        "A key of which every silo holds a share and no party the whole; t shares open a sum "
        "(ThresholdPaillier). The silo that dealt it had the whole.",
        see=("dealer", "share", "threshold"),
    ),
    Term(
        "traffic",
        "Bytes of all messages, headers included: up from all silos together, down to all of them together.",
        ("up", "down", "bytes"),
        ("seconds", "round report"),
    ),
    Term(
        "trainer",
        "A silo's own code that trains and measures a model: two methods over NumPy vectors. The "
        "coordinator never sends code.",
        see=("metric", "Training"),
    ),
    Term(
        "Training",
        "The phase before the first attempt: silos check the terms, train once, and say that they are "
        "ready. Nothing of the data leaves a silo in it.",
        see=("terms", "trainer"),
    ),
    Term(
        "Unmasking",
        "The phase in which t survivors open shares: of the seed of each survivor, of the mask key of each "
        "lost silo, never of both. With them the coordinator takes the masks off the sum.",
        see=("share", "release"),
    ),
    Term(
        "void",
        "A signed word that a silo did not release a round and never will. t voids prove that the round "
        "cannot be opened any more, so that its lock may lift.",
        ("Voided",),
        ("lock", "release", "threshold"),
    ),
    Term(
        "weight",
        "How much a silo's update counts in the mean: its number of examples, 0 to the weight cap. Only the "
        "total is opened.",
        ("total weight",),
        ("weight cap",),
    ),
    Term(
        "weight cap",
        "The largest weight that one silo may have, public and the same at all. Weights are sent in units "
        "of it, so that none can make the sum wrap; a larger one is refused at the silo.",
        see=("weight", "head-room"),
    ),
    Term(
        "who reads",
        "The sentence that says who can read one silo's update: under Masking and ThresholdPaillier nobody, "
        "the coordinator and c silos together included; under Paillier and CKKS any one silo together with "
        "the coordinator; under Plain the coordinator.",
        see=("adversary level", "colluders", "honest silos", "scheme"),
    ),
    Term(
        "worst error",
        "A proven bound on what fixed point and floating point change in one entry of the mean or in a "
        "metric. Clipping and saturation are not in it: they have rows of their own.",
        ("rounding", "error"),
        ("fixed point", "clip", "saturated"),
    ),
)

GLOSSARY: Mapping[str, Term] = MappingProxyType({term.name: term for term in _TERMS})
"""Name -> its entry, in alphabetical order."""
