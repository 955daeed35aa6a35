"""The version in production according to the signed ledger. The alias only displays it: anyone can move it."""

import logging
from typing import NamedTuple

from steps.errors import RegistryError, RequestError
from steps.registry import ledger
from steps.registry.chain import Chain
from steps.registry.model_registry import CHAMPION, Registry

log = logging.getLogger("regraft")


class Named(NamedTuple):
    """The version to serve (None if none is named), and a remark for the user."""

    number: str | None
    remark: str = ""


class Production:
    """The champion by the ledger. Repeated calls ask the registry only for new entries.

    An entry once read must remain: a ledger that is truncated later, or lacks an entry of data/ledger.jsonl, is refused
    like a damaged one.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known, self._chain = ledger.exported(registry.root, registry.name), Chain((), (), (), True)
        self._unanchored = not self._known and ledger.marked(registry) is None

    def named(self) -> Named:
        """Return the present champion. Raises RegistryError if the ledger was tampered with or cannot be reached."""
        chain = ledger.read(self._registry, self._chain)
        if chain is not self._chain:
            ledger.whole(chain, self._known)
            self._chain, self._known = chain, [decision.text() for _, decision in chain.entries]
        if chain.champion is None:
            return Named(None, f"the ledger of {self._registry.name} names no champion")
        alias = self._registry.alias(CHAMPION)
        if alias == chain.champion:
            return Named(alias)
        if self._registry.version(chain.champion) is None:
            raise RegistryError(lost(self._registry, chain))
        stands = f"on version {alias}" if alias else "nowhere"
        return Named(
            chain.champion,
            f"the alias {CHAMPION} stands {stands}, the ledger names version {chain.champion}, which answers",
        )

    def champion(self) -> str:
        """Return the champion, with a warning if the alias differs; RequestError if there is none."""
        number, remark = self.named()
        if number is None and (sentence := ledger.emptied(self._registry)):
            raise RegistryError(sentence)
        if number is None:
            raise RequestError(f"{remark}; `regraft run` makes one, --version takes another version")
        if remark:
            log.warning(remark)
        if self._unanchored:
            log.warning(
                "nothing here says how long the ledger of %s was (no %s): one whose end was cut off would pass. Bring "
                "that file from where it is decided",
                self._registry.name,
                ledger.EXPORT,
            )
        return number

    def package_of(self, number: str) -> str | None:
        """Return the digest of the package decided on under this number; None if no entry holds one."""
        return self._chain.package_of(number)


def lost(registry: Registry, chain: Chain) -> str:
    """Return why the ledger's champion cannot be loaded, and the ways out; "" if its files are there.

    Raises RegistryError if that cannot be known now.
    """
    champion, name = chain.champion, registry.name
    if champion is None or registry.listing(champion):
        return ""
    if registry.model() is None:
        return (
            f"the model {name} was deleted in MLflow, and with it version {champion}, the champion by the ledger; "
            "`regraft run` registers the same models again if nothing has changed since, otherwise name another model "
            "in params.yaml (register.model_name), which begins a ledger of its own"
        )
    earlier = {
        d.champion for _, d in chain.entries if d.champion and d.champion != champion and registry.has(d.champion)
    }
    back = [f"`regraft rollback --to {number} --reason TEXT`" for number in sorted(earlier, key=int)[-1:]]
    other = registry.newest()
    back += [f"`regraft adopt {other} --reason TEXT` says that it is lost and which one follows"] if other else []
    approved = "set promote.approval: required, and a person decides about the next version without a comparison"
    if registry.version(champion) is None:
        what, ways = f"version {champion} of {name}, the champion by the ledger, was deleted in MLflow", back
    else:
        there = registry.client.get_model_version_download_uri(name, champion)
        what, ways = f"version {champion} of {name}, the champion, has no files at {there}", ["restore them", *back]
    return f"{what}; {', or '.join([*ways, approved])}"


def chosen(registry: Registry, which: str) -> tuple[str, str | None]:
    """Return the version given by number or alias, and the digest of its package in the ledger, if any.

    `champion` is the ledger's champion, whatever the alias says. Raises RequestError if there is no such version,
    RegistryError if the ledger was tampered with.
    """
    if which == CHAMPION:
        production = Production(registry)
        number = production.champion()
        return number, production.package_of(number)
    _, number = registry.resolve(f"models:/{registry.name}{'/' if which.isdecimal() else '@'}{which}")
    return number, ledger.package_of(registry, number)


def aliased(registry: Registry, alias: str) -> Named:
    """Return the version that an alias names; RegistryError if the registry does not answer."""
    number = registry.alias(alias)
    return Named(number, "" if number else f"the alias {alias} names no version any more")


def present(registry: Registry) -> str | None:
    """Return the champion or None: the ledger's, or the alias's if the project is older than its ledger."""
    chain = ledger.whole(ledger.read(registry))
    return chain.champion if chain.entries else registry.alias(CHAMPION)
