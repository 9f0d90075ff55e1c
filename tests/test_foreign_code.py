"""Functions and classes pickled by value load only on the Python that wrote them; all else anywhere."""

from __future__ import annotations

import base64
import collections
import pickle
import platform
import sys
import types
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptstore import Checkpoint, CheckpointStore
from ckptstore.codec.pickles.python_code import find_code
from ckptstore.errors import UnreadableFormat
from ckptstore.read import foreign_code

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.12.1" if HERE != "3.12" else "3.13.0"

# cloudpickle.dumps of one function with loops and comparisons, by each of these Pythons.
SCHEDULES = {
    "3.10": (
        "c-m!BO>fgM7`C0ZtHyvagjN9u4j|G4)qX(L9fH`wQVtu}%5oF8iJHW1?TAfkB&4q04!$6a5d0JV6+eO3nHZ6<CCl%}^Sqy*"
        "Ti?DDR3CF3WwMMHX*AEopz*in5zF~puxVLDI+ca}YW)P6hip=&nNAC)uNDH7rW?pue00Lro?D+1ir{**L%raGMls&t_h|g2"
        "BDZKw=4kay<Cv`REsDJtsE0O$AdD{1vZculn&P+>x39Z^>p0v7&=<)1A@$BqfBkUhC*4o>e2VKZgtq9@pf^KnH11Z|(LxBI"
        "|3a1ofc?H9gA;4;rQJbE!}zM;c^bWoAm@=a`@<|%I+FQfWNAAfJp`^A3h8U8#k^EeBH|J{Gt6YfGc_7C0YqEVUh!fE-STpN"
        "32!C}dt;MB<7v47E+_pTw)>YCID*areubZ7+fNR+)`hLWfiVCG#_Dg*q20`?Fbtg?rf_sW7N&$&nrk<T<ZT6DKY85<U=A2t"
        "mOQ(s`)7H~7%vJ5VBk?;tlZGq{8KEZyv(#yg%014&rW~eEzTC22boDn1^VQT*#k!z)tCp2!78b8C2H}QH5QAha&iY#c5I#N"
        "ERz%HZJj{5v%B+?!5?*;>l^"
    ),
    "3.12": (
        "c-l=;&1(}u6rb7In3_!+jE5o>FJ4kGX?rMm5Q|3WVIhacgO@N&cDG5$W;f~1(hqi_m)1fDtUBUX4-qesf_K4-|ADk19=z!v"
        "P`r8bO}^i-!~6KXH*eqX?dz|8Yp5?`-g5oWZa1u^>lCJRDduR4H66McdKPc^o_r~DbtGnKHEg)N;ZeTZcEBlSioWeUR>pzc"
        "kU3K`5ggr2nxy#oHR2cz#l~kt{Sm4xAQWp6inJzl5@2zalQB+<aD;5KXCSnfLg;MRtEFL7Mmpk&5pt@wKB@hTSXvFx708WA"
        "L?SeLBO=c=k=7v=lM%k$ud6)UNaji=Szr6|R>?avWolfC#1`{vFb~pVJ8-*>C!flkzz`zbZ%cta_;w`NbNB3BkF^?B-h!Fj"
        "huH*H-LXS8&WUPj#qvJ-HJd$IIezjN;l%P0{%NF-I>)Q0*WZ-8w|ltv@Y9tKcP?%$ooAOW2_XI$bEm7_Ywz#=$mCC0x6@ns"
        "7{0*gnf!%O_^ucJfhLQ_*VKdT%(tWtw_IH0Kt~J@Qwlvfl=jsY1L~*@N~MyD1Ebk7#WZkuz!_Jx)^Ej-oU1QP|3jM6PRQJG"
        "xk)5LDf2uZlA%rj!B{O2ZEoAnCJSAzTqTu1Wv{PY4k$Q~A_blKsucL^H$@VFzSYk$D225Q!Y!w7&eN$Sr9oI7qy@4f6}0C1"
        "Rpt&F2oL4q#&Y35u08RM"
    ),
    "3.13": (
        "c-l=;O=}ZT6umQ(wlR|?HiZ_cNWm^r=p>dB2qG5EqJ^<R8Y_VykC&NA6Ec~Jof&Kwfo@t|j8gCwjbzd8>K_nXxbPonvvJ|F"
        "KR}o6yl;{w^M-lcuXEnv-g_81y%Hff{=8<|p5AU~P1DGPZ009Oi#82X^DND6*cN-w(sl5sN!4qZZo?w(LEFHfA1&Cr@r*l1"
        "Y@4N3Q3d=W>Xa%KzMMiufZ-_#xuHD^n+pJzSQhW60Cd!{6$7Y9qe`)Svm_}pfP(SdP^%*@!V<`^2$hNJ$`E^G%>G<*#4Oft"
        "#sTcL9SFa&BRv(j5)kk>q9t9UmI8hrsR2tDRcT}WYnPu-YD^Vf=1=TVYZv<>wdg+HreU$yEbR-Jl3csZe8IwhpP`?4pdVPY"
        ")zB0Td-D)`<Y;w6_jp^!rYaVm9K!GE)XD0*@*Clo9DkeZ&3-JM-Mx7HdGdUve=B>L%KnugF?S^=dbzWiUcR4Hy7?1&v3l-("
        "5W4xFNu@7menc|=E|Ur?$ls!m=Az$kOybR!mtCAk2VW!v#TbMHW{cwN2y=?XBG2PUQ==IZ$8a5&x_qwnI~@e4>kDD=aY9~t"
        ")Ev=`Gf6_IW!VTu9tV>hzCon<N;hiMGhH4ka(u|&SpPHV{SotHsLbY67_Z;<r?Al00*p)u?xo}H8G$=bLR(54uR4G^>;>bc"
        "yQW>G=0JdV%#OG3W&Q&@8|Yd"
    ),
    "3.11": (
        "c-m!C%}X0W6rb5mYRLM5@nD5gEQL0Ky6Pd|At*Ej4+}Y%9=yn~*<IZwo89QnQk4WeG%+c2Na={RD5O0Ei-%r%>3<QyLofah"
        "9((NDjmEW|86NNZ{pQV^gV@ojh{DCDHQV*|s-=}}LyqvAjgyL6Hpr&$Xw-5Y{)wke#KuU;w`^)Tgzi-hP_jhc)s44-(BNx4"
        "tq2N&Eh;05nE!c*juFLZxOChD>0+pPgEnUCLL1eDawzXSreeffsNpu!#eE5({Uky?0b+$at0rJnMC=)j-$%62Ce~x`6Ax;}"
        "|E<{rdNH&=v=$Lh7Zh=I<=08Dz9>m^B(31^Qi2jwrt-5#_!w=W8rn$KF#x=U{v%Pt9|a~sf=q@9@&adgmp7r2IepJjE0#8="
        "L8q2EOXh6LqncZ(g7C!COhfmf`#IayRNGsYBW5L@fBNSD^(W>Ar=xba&lkV>UB837ez18SK_Lpw&rs;UB2doaJF2q<PbgN@"
        "U7)t%@I!8<m`L3!I0w@Is1kQTqO2n1EvSDzmg+3F*V+0F!tsTWwD50fw6*;q+sd9zeJ*yNpX2k_-yeN_bvZMCH8bB&-JVwV"
        "S{fhXhjW(gPM$2CE&+QvF?R)2lCLDWACtK`nK4rh9^9i2C<p<71|cC^QDNo?_X>qVV24pm4QG>h2KA^)gLyPFbqG$IFQOM3"
        "C1l%I?P0om%LE~+<G2tEc|0)IgUKi5ce=5u`Zf(zg&;m6uddt-W~Bjd3CP?a73j^EYy=!#EsT)}f&b+BJ4Pr@lgRHPo?jY-"
        "d3=Khu3NTSg2xX5_)XqiTaf<(I}<EH"
    ),
}


def pickle_of(version: str) -> bytes:
    return zlib.decompress(base64.b85decode(SCHEDULES[version]))


class ByName:
    """Importable, so pickled by reference."""

    def __init__(self) -> None:
        self.values = [1, 2]


def by_value() -> dict[str, Any]:
    """What cloudpickle can only pickle as code."""
    module: dict[str, Any] = {"__name__": "__main__"}
    exec("class Local:\n def best(self): return 1\ndef function(t): return max(0.1, 1 - t / 10)", module)
    return {
        "lambda": {"lr": lambda t: t / 10},
        "function": module["function"],
        "instance": [module["Local"]()],
        "class": module["Local"],
        "factory": collections.defaultdict(lambda: 0, {"a": 1}),
        "between arrays": {"a": np.ones(40_000), "f": module["function"], "b": np.ones(40_000)},
    }


def plain() -> dict[str, Any]:
    return {
        "data": {"a": [1, 2.5, "CodeType", b"marshal"], "w": np.arange(40_000)},
        "by name": [ByName(), ByName, np.mean, len, collections.Counter("aab")],
        "namespace": types.SimpleNamespace(a=1, name="CodeType"),
        "generator": np.random.default_rng(3),
    }


@pytest.fixture
def written_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    """A store whose manifests say that another Python wrote them: the values are in the state."""
    store = CheckpointStore(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(platform, "python_version", lambda: OTHER)
        for step, value in enumerate([*by_value().values(), *plain().values()]):
            policies = {"p": {"value": value}}
            store.save(step, {"value": value, "n": 42}, policies, {"c": value})
    return store


def refused(checkpoint: Checkpoint, minor: str) -> None:
    with pytest.raises(UnreadableFormat) as caught:
        checkpoint.load(trusted=True)
    assert f"Python {minor}" in caught.value.why
    assert f"Load it with Python {minor}" in caught.value.remedy
    assert checkpoint.load().policies.keys() == {"p"}  # the way out works


@pytest.mark.parametrize("step", range(len(by_value())))
def test_code_of_another_python_is_refused(written_by_another: CheckpointStore, step: int) -> None:
    ran: list[str] = []
    sys.addaudithook(lambda event, _: ran.append(event) if event == "pickle.find_class" else None)
    checkpoint = written_by_another.get(step)
    minor = OTHER.rpartition(".")[0]
    refused(checkpoint, minor)
    assert checkpoint.state["n"] == 42
    with pytest.raises(UnreadableFormat):
        checkpoint.load([], trusted=True, mmap=True)
    assert ran == [], "nothing is imported before the refusal"


@pytest.mark.parametrize("index", range(len(plain())))
def test_everything_else_loads_as_ever(written_by_another: CheckpointStore, index: int) -> None:
    checkpoint = written_by_another.get(len(by_value()) + index)
    loaded = checkpoint.load(trusted=True)
    assert pickle.dumps(loaded.state["value"])
    assert type(loaded.policies["p"]["value"]) is type(list(plain().values())[index])


def test_ones_own_code_loads(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    for step, value in enumerate(by_value().values()):
        loaded = store.save(step, {"value": value}).load(trusted=True).state["value"]
        assert type(loaded).__name__ == type(value).__name__
    assert store.get(0).load(trusted=True).state["value"]["lr"](5) == 0.5


def test_a_policy_taken_over_keeps_the_python_that_pickled_it(
    written_by_another: CheckpointStore, tmp_path: Path
) -> None:
    minor = OTHER.rpartition(".")[0]
    old = written_by_another.get(0)
    for store in (written_by_another, CheckpointStore(tmp_path / "other")):
        first = store.save(100, {"mine": 1}, {"p": old.stored("p")})
        second = store.save(101, {"mine": 1}, {"p": first.stored("p")})
        assert first.manifest.writer["python"] == platform.python_version()
        assert second.manifest.writer["python_of_stored"] == OTHER
        for checkpoint in (first, second):
            refused(checkpoint, minor)
            assert checkpoint.load([], trusted=True).state == {"mine": 1}


def test_the_copy_of_a_checkpoint_keeps_it_too(written_by_another: CheckpointStore, tmp_path: Path) -> None:
    [copy] = written_by_another.copy_to(CheckpointStore(tmp_path / "other"), [0])
    refused(copy, OTHER.rpartition(".")[0])
    refused(Checkpoint.open(written_by_another.get(1).download(tmp_path / "down")), OTHER.rpartition(".")[0])


@pytest.mark.parametrize("version", SCHEDULES)
def test_the_bytecode_itself_gives_other_versions_away(version: str) -> None:
    found = find_code(pickle_of(version))
    assert found is not None
    assert found.fits == (version == HERE)
    # Even where a manifest is wrong or says nothing.
    for writer in ({"python": f"{HERE}.0"}, {}):
        if version == HERE and writer:
            foreign_code.refuse_foreign_code("x", pickle_of(version), writer)
            continue
        with pytest.raises(UnreadableFormat, match="bytecode"):
            foreign_code.refuse_foreign_code("x", pickle_of(version), writer)


def test_what_can_not_be_decoded_counts_as_code_only_if_it_mentions_it() -> None:
    assert find_code(b"\x80\x05 broken") is None
    assert find_code(b"\x80\x05 broken CodeType") is not None
