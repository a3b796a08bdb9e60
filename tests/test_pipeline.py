# Copyright 2026 The monai_miadmark authors
# SPDX-License-Identifier: Apache-2.0
"""Protect and restore in memory: every format, every way in which it must fail, and the size of records."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
import samples
from doubles import BLUNT, NoiseMarker
from numpy.typing import NDArray
from PIL import Image

from monai_miadmark.errors import (
    MIADMarkError,
    NotProtectedError,
    SignatureError,
    TamperedError,
    UnsupportedImageError,
    WrongKeyError,
)
from monai_miadmark.formats import carrier_for
from monai_miadmark.formats.nifti import NiftiCarrier
from monai_miadmark.formats.raster import RECORD_CHUNK
from monai_miadmark.image import STORED_DTYPES, Bounds, StoredImage, Window, pixel_digest
from monai_miadmark.keys import HpkeIdentity, Signer, generate_identity, generate_signer
from monai_miadmark.options import ProtectOptions
from monai_miadmark.pipeline import (
    ProtectedBytes,
    grant_bytes,
    inspect_bytes,
    protect_bytes,
    protect_image,
    read_record,
    remove_bytes,
    restore_image,
    revoke_bytes,
    verify_bytes,
)

FILES: dict[str, Callable[[], bytes]] = {
    "ct.dcm": samples.ct,
    "t1.nii": samples.nifti,
    "t2.nii.gz": samples.nifti_gz,
    "slice.png": samples.png,
    "photo.jpg": samples.jpeg,
}
FAST = ProtectOptions(BLUNT, style="invisible")


@pytest.fixture(scope="module")
def alice() -> HpkeIdentity:
    return generate_identity("x25519")


@pytest.fixture(scope="module")
def bob() -> HpkeIdentity:
    return generate_identity("x25519")


@pytest.fixture(scope="module")
def signer() -> Signer:
    return generate_signer()


@pytest.fixture(scope="module", params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def protected(name: str, alice: HpkeIdentity, signer: Signer) -> ProtectedBytes:
    """One protected and signed file of each format."""
    return protect_bytes(FILES[name](), f"some/folder/{name}", [alice.recipient], NoiseMarker(), None, signer)


def with_samples(data: bytes, values: NDArray[Any]) -> bytes:
    """The PNG file with other samples and the same record, as an editor that keeps chunks would write it."""
    out = io.BytesIO()
    Image.fromarray(values[0].squeeze()).save(out, "PNG")
    fresh, start = out.getvalue(), data.index(RECORD_CHUNK) - 4
    record = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
    return fresh[:33] + record + fresh[33:]


class TestFiles:
    def test_round_trip(self, name: str, protected: ProtectedBytes, alice: HpkeIdentity) -> None:
        source = FILES[name]()
        restored = remove_bytes(protected.data, [alice])
        assert restored.name == name
        assert samples.plain(name, restored.data) == samples.plain(name, source)
        assert protected.name == ("photo.png" if name == "photo.jpg" else name)

    def test_the_protected_file_differs_and_holds_no_original(self, name: str, protected: ProtectedBytes) -> None:
        source = FILES[name]()
        before = carrier_for(source, name).open_source(source, name).image.values
        after = carrier_for(protected.data, "").open_protected(protected.data).values
        assert before.shape == after.shape and before.dtype == after.dtype
        assert (before != after).mean() > 0.2
        assert before.tobytes() not in samples.plain(protected.name, protected.data)

    @pytest.mark.parametrize("options", [FAST, ProtectOptions("strong", region="none")], ids=["invisible", "strong"])
    def test_sidecar(self, name: str, alice: HpkeIdentity, options: ProtectOptions) -> None:
        source = FILES[name]()
        made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), options, sidecar=True)
        assert made.envelope not in samples.plain(made.name, made.data)
        with pytest.raises(NotProtectedError, match="its record is in a sidecar"):
            remove_bytes(made.data, [alice])
        restored = remove_bytes(made.data, [alice], made.envelope)
        assert samples.plain(name, restored.data) == samples.plain(name, source)
        assert inspect_bytes(made.data, made.envelope) == verify_bytes(made.data, made.envelope)

    def test_a_mask_stays(self, name: str, alice: HpkeIdentity) -> None:
        source = FILES[name]()
        image = carrier_for(source, name).open_source(source, name).image
        mask = np.zeros(image.values.shape[:3], bool)
        mask[:, 10:30, 4:22] = True
        made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), ProtectOptions(region=mask))
        after = carrier_for(made.data, "").open_protected(made.data).values
        assert np.array_equal(after[mask], image.values[mask])
        assert samples.plain(name, remove_bytes(made.data, [alice]).data) == samples.plain(name, source)

    def test_every_protection_uses_another_key(self, alice: HpkeIdentity) -> None:
        made = [protect_bytes(samples.png(), "a.png", [alice.recipient], NoiseMarker(), FAST) for _ in range(2)]
        values = [carrier_for(m.data, "").open_protected(m.data).values for m in made]
        assert not np.array_equal(*values)

    def test_protecting_twice_is_refused(self, name: str, protected: ProtectedBytes, alice: HpkeIdentity) -> None:
        with pytest.raises(UnsupportedImageError, match="protected already"):
            protect_bytes(protected.data, protected.name, [alice.recipient], NoiseMarker(), FAST)

    def test_the_repr_shows_no_bytes(self, name: str, protected: ProtectedBytes, alice: HpkeIdentity) -> None:
        assert len(repr(protected)) < 200 and len(repr(remove_bytes(protected.data, [alice]))) < 200

    def test_somebody_must_be_able_to_restore(self, name: str) -> None:
        with pytest.raises(ValueError, match="at least one recipient"):
            protect_bytes(FILES[name](), name, [], NoiseMarker(), FAST)

    def test_what_is_no_image_is_refused(self, alice: HpkeIdentity) -> None:
        for data in (b"", b"MIADMARK", b"hello", b"GIF89a"):
            with pytest.raises(UnsupportedImageError):
                protect_bytes(data, "x", [alice.recipient], NoiseMarker())
            with pytest.raises(UnsupportedImageError):
                remove_bytes(data, [alice])


class TestWrongKeys:
    def test_another_key(self, protected: ProtectedBytes, bob: HpkeIdentity) -> None:
        with pytest.raises(WrongKeyError):
            remove_bytes(protected.data, [bob])
        with pytest.raises(WrongKeyError):
            remove_bytes(protected.data, [generate_identity("p256"), generate_identity("hybrid")])

    def test_one_key_of_several_fits(
        self, name: str, protected: ProtectedBytes, alice: HpkeIdentity, bob: HpkeIdentity
    ) -> None:
        restored = remove_bytes(protected.data, [bob, alice])
        assert samples.plain(name, restored.data) == samples.plain(name, FILES[name]())

    def test_no_key(self, protected: ProtectedBytes) -> None:
        with pytest.raises(WrongKeyError):
            remove_bytes(protected.data, [])

    def test_signers(self, protected: ProtectedBytes, alice: HpkeIdentity, signer: Signer) -> None:
        assert remove_bytes(protected.data, [alice], require_signer=signer.verifier).data
        assert verify_bytes(protected.data, signer=signer.verifier).signer == ("ed25519", signer.key_id.hex())
        for check in (
            lambda other: remove_bytes(protected.data, [alice], require_signer=other),
            lambda other: verify_bytes(protected.data, signer=other),
        ):
            with pytest.raises(SignatureError):
                check(generate_signer().verifier)

    def test_a_demanded_signature_must_be_there(self, alice: HpkeIdentity, signer: Signer) -> None:
        made = protect_bytes(samples.png(), "a.png", [alice.recipient], NoiseMarker(), FAST)
        with pytest.raises(SignatureError):
            remove_bytes(made.data, [alice], require_signer=signer.verifier)


class TestTampering:
    def test_flipped_bits_anywhere_never_give_a_wrong_file(
        self, name: str, protected: ProtectedBytes, alice: HpkeIdentity
    ) -> None:
        """A named error, or the original: bits that carry nothing (a preamble) may change and do no harm."""
        expected = samples.plain(name, FILES[name]())
        rng = np.random.default_rng(0)
        data = bytearray(protected.data)
        refused = 0
        positions = rng.integers(0, len(data), 120)
        for at in positions:
            bit = 1 << int(rng.integers(8))
            data[at] ^= bit
            try:
                restored = remove_bytes(bytes(data), [alice])
                assert samples.plain(name, restored.data) == expected
            except MIADMarkError:
                refused += 1
            data[at] ^= bit
        assert refused > 0.8 * len(positions)

    def test_truncated(self, protected: ProtectedBytes, alice: HpkeIdentity) -> None:
        size = len(protected.data)
        for length in (*range(0, 400, 37), *range(400, size, size // 23), size - 100, size - 13, size - 1):
            with pytest.raises(MIADMarkError):
                remove_bytes(protected.data[:length], [alice])

    def test_flipped_bits_in_the_envelope(self, protected: ProtectedBytes, alice: HpkeIdentity) -> None:
        carrier = carrier_for(protected.data, "")
        for at in range(8, len(protected.envelope), max(1, len(protected.envelope) // 25)):
            damaged = bytearray(protected.envelope)
            damaged[at] ^= 4
            file = carrier.replace_envelope(protected.data, bytes(damaged))
            for check in (lambda f: remove_bytes(f, [alice]), verify_bytes):
                with pytest.raises(TamperedError):
                    check(file)

    def test_stripped_record(self, name: str, alice: HpkeIdentity) -> None:
        source = FILES[name]()
        made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), FAST, sidecar=True)
        for call in (
            lambda: remove_bytes(made.data, [alice]),
            lambda: inspect_bytes(made.data),
            lambda: verify_bytes(made.data),
            lambda: grant_bytes(made.data, alice, [alice.recipient]),
            lambda: revoke_bytes(made.data, alice, [alice.recipient]),
        ):
            with pytest.raises(NotProtectedError, match="its record is in a sidecar"):
                call()

    def test_never_protected(self, name: str, alice: HpkeIdentity) -> None:
        with pytest.raises(NotProtectedError, match="it was never protected, or its record was stripped"):
            remove_bytes(FILES[name](), [alice])

    def test_foreign_sidecar(self, name: str, alice: HpkeIdentity) -> None:
        made, other = (
            protect_bytes(FILES[name](), name, [alice.recipient], NoiseMarker(), FAST, sidecar=True) for _ in range(2)
        )
        with pytest.raises(TamperedError):
            remove_bytes(made.data, [alice], other.envelope)
        with pytest.raises(TamperedError):
            verify_bytes(made.data, other.envelope)
        with pytest.raises(TamperedError):  # the source itself, beside a record that belongs to its protected form
            remove_bytes(FILES[name](), [alice], made.envelope)
        with pytest.raises(NotProtectedError):
            remove_bytes(made.data, [alice], b"no envelope at all")
        with pytest.raises(MIADMarkError):
            remove_bytes(made.data, [alice], b"")

    def test_a_record_of_another_file_inside(self, protected: ProtectedBytes, name: str, alice: HpkeIdentity) -> None:
        other = protect_bytes(FILES[name](), name, [alice.recipient], NoiseMarker(), FAST)
        swapped = carrier_for(protected.data, "").replace_envelope(protected.data, other.envelope)
        with pytest.raises(TamperedError):
            remove_bytes(swapped, [alice])

    @pytest.mark.parametrize("kind", ["slice.png", "photo.jpg"])
    def test_edited_pixels(self, kind: str, alice: HpkeIdentity) -> None:
        made = protect_bytes(FILES[kind](), kind, [alice.recipient], NoiseMarker(), FAST)

        values = carrier_for(made.data, "").open_protected(made.data).values.copy()
        assert remove_bytes(with_samples(made.data, values), [alice]).data == FILES[kind]()
        values[0, 20, 20, 0] ^= 1
        with pytest.raises(TamperedError):
            remove_bytes(with_samples(made.data, values), [alice])

    def test_edited_nifti_pixels(self, alice: HpkeIdentity) -> None:
        made = protect_bytes(samples.nifti(), "a.nii", [alice.recipient], NoiseMarker(), FAST)
        edited = made.data[:-2] + bytes([made.data[-2] ^ 1]) + made.data[-1:]
        with pytest.raises(TamperedError):
            remove_bytes(edited, [alice])
        with pytest.raises(TamperedError):
            verify_bytes(edited)

    def test_edited_dicom_pixels(self, alice: HpkeIdentity) -> None:
        made = protect_bytes(samples.ct(), "ct.dcm", [alice.recipient], NoiseMarker(), FAST)
        data_set = pydicom.dcmread(io.BytesIO(made.data))
        pixels = data_set.pixel_array.copy()
        pixels[3, 4] += 1
        data_set.PixelData = pixels.tobytes()
        out = io.BytesIO()
        data_set.save_as(out)
        with pytest.raises(TamperedError):
            remove_bytes(out.getvalue(), [alice])
        with pytest.raises(TamperedError):
            verify_bytes(out.getvalue())

    def test_an_image_record_in_a_file_is_refused(self, alice: HpkeIdentity) -> None:
        """A record of an array in memory does not say how to rebuild a file."""
        source = samples.png()
        made = protect_bytes(source, "a.png", [alice.recipient], NoiseMarker(), FAST)
        image = carrier_for(source, "").open_source(source, "a.png").image
        values, envelope = protect_image(image, [alice.recipient], NoiseMarker(), FAST)
        carrier = carrier_for(source, "")
        file = carrier.carry(source, carrier.open_source(source, "a.png"), values, envelope)
        assert made.data != file
        with pytest.raises(UnsupportedImageError, match="array in memory"):
            remove_bytes(file, [alice])


def test_derived_uids_tell_nothing_of_their_source(alice: HpkeIdentity) -> None:
    """Each protected object has a UID of its own; files of one series stay one, in several jobs of one owner."""
    first, neighbour, written = samples.ct(), pydicom.dcmread(io.BytesIO(samples.ct())), io.BytesIO()
    series = str(neighbour.SeriesInstanceUID)
    neighbour.SOPInstanceUID = neighbour.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    neighbour.save_as(written)
    second = written.getvalue()
    made = [
        pydicom.dcmread(io.BytesIO(protect_bytes(data, "ct.dcm", [alice.recipient], NoiseMarker(), FAST, **more).data))
        for data, more in ((first, {}), (second, {}), (first, {}), (first, {"series_secret": bytes(32)}))
    ]
    assert len({each.SOPInstanceUID for each in made}) == 4
    assert made[0].SeriesInstanceUID == made[1].SeriesInstanceUID == made[2].SeriesInstanceUID
    assert made[3].SeriesInstanceUID not in (series, made[0].SeriesInstanceUID)


class TestGrantAndRevoke:
    def test_without_the_original(
        self, name: str, protected: ProtectedBytes, alice: HpkeIdentity, bob: HpkeIdentity, signer: Signer
    ) -> None:
        plain = samples.plain(name, FILES[name]())
        granted, envelope = grant_bytes(protected.data, alice, [bob.recipient], signer=signer)
        assert envelope != protected.envelope
        for identity in (alice, bob):
            restored = remove_bytes(granted, [identity], require_signer=signer.verifier)
            assert samples.plain(name, restored.data) == plain
        revoked, _ = revoke_bytes(granted, bob, [alice.recipient], signer=signer)
        assert samples.plain(name, remove_bytes(revoked, [bob], require_signer=signer.verifier).data) == plain
        unsigned, _ = revoke_bytes(granted, bob, [alice.recipient])
        assert samples.plain(name, remove_bytes(unsigned, [bob]).data) == plain
        with pytest.raises(SignatureError, match="not signed"):
            remove_bytes(unsigned, [bob], require_signer=signer.verifier)
        with pytest.raises(WrongKeyError):
            remove_bytes(revoked, [alice])
        with pytest.raises(ValueError, match="no recipient would be left"):
            revoke_bytes(revoked, bob, [bob.recipient])

    def test_the_samples_stay(self, protected: ProtectedBytes, alice: HpkeIdentity, bob: HpkeIdentity) -> None:
        granted, _ = grant_bytes(protected.data, alice, [bob.recipient])
        values = [carrier_for(d, "").open_protected(d).values for d in (protected.data, granted)]
        assert np.array_equal(*values)

    def test_with_a_sidecar_only_the_sidecar_changes(self, name: str, alice: HpkeIdentity, bob: HpkeIdentity) -> None:
        source = FILES[name]()
        made = protect_bytes(source, name, [alice.recipient], NoiseMarker(), FAST, sidecar=True)
        data, envelope = grant_bytes(made.data, alice, [bob.recipient], made.envelope)
        assert data == made.data
        assert samples.plain(name, remove_bytes(data, [bob], envelope).data) == samples.plain(name, source)
        data, envelope = revoke_bytes(made.data, bob, [alice.recipient.key_id], envelope)
        with pytest.raises(WrongKeyError):
            remove_bytes(data, [alice], envelope)

    def test_only_who_can_open_may_grant(self, protected: ProtectedBytes, bob: HpkeIdentity) -> None:
        with pytest.raises(WrongKeyError):
            grant_bytes(protected.data, bob, [bob.recipient])
        with pytest.raises(WrongKeyError):
            revoke_bytes(protected.data, bob, [bob.recipient])


class TestInspect:
    def test_needs_no_key_and_tells_recipients(
        self, protected: ProtectedBytes, alice: HpkeIdentity, signer: Signer
    ) -> None:
        info = inspect_bytes(protected.data)
        values = carrier_for(protected.data, "").open_protected(protected.data).values
        assert info.protected_pixels == pixel_digest(values).hex()
        assert info.signer == ("ed25519", signer.key_id.hex())
        text = json.dumps(info.to_dict())
        assert alice.recipient.key_id.hex() in text and "x25519" in text

    def test_says_nothing_of_the_source(self, protected: ProtectedBytes) -> None:
        assert b"some/folder" not in protected.envelope and b"ct.dcm" not in protected.envelope


class TestArrays:
    @pytest.mark.parametrize("dtype", STORED_DTYPES)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_round_trip(self, dtype: str, channels: int, alice: HpkeIdentity) -> None:
        rng = np.random.default_rng(0)
        if dtype == "float32":
            values = rng.normal(0, 40, (2, 33, 27, channels)).astype(dtype)
            values[0, 0, :3, 0] = np.nan, np.inf, -0.0
        else:
            info = np.iinfo(dtype)
            values = rng.integers(info.min, info.max, (2, 33, 27, channels), dtype, endpoint=True)
        values.flags.writeable = False
        finite = values[np.isfinite(values)].astype(float)
        low, high = float(finite.min()), float(finite.max())
        image = StoredImage(values, Bounds(low, high), Window(low, high))
        protected, envelope = protect_image(image, [alice.recipient], NoiseMarker())
        assert protected.dtype == values.dtype and protected.shape == values.shape
        assert not np.array_equal(protected, values) and np.nanmin(protected[np.isfinite(protected)]) >= low
        copy = protected.copy()
        restored = restore_image(protected, envelope, [alice])
        assert restored.tobytes() == values.tobytes() and restored.dtype == values.dtype
        assert protected.tobytes() == copy.tobytes()

    def test_failures_are_named(self, alice: HpkeIdentity, bob: HpkeIdentity, signer: Signer) -> None:
        image = StoredImage(samples.smooth()[None, ..., None], Bounds(0, 255), Window(0, 255))
        values, envelope = protect_image(image, [alice.recipient], NoiseMarker(), FAST, signer)
        with pytest.raises(WrongKeyError):
            restore_image(values, envelope, [bob])
        with pytest.raises(NotProtectedError):
            restore_image(values, b"something else", [alice])
        with pytest.raises(SignatureError):
            restore_image(values, envelope, [alice], generate_signer().verifier)
        for other in (values ^ 1, values[:, ::-1].copy(), values.astype(np.int16), values[:, :-1]):
            with pytest.raises(TamperedError):
                restore_image(other, envelope, [alice], signer.verifier)
        with pytest.raises(TamperedError):
            restore_image(values, envelope[:-3], [alice])
        with pytest.raises(ValueError, match="at least one recipient"):
            protect_image(image, [], NoiseMarker())
        assert np.array_equal(restore_image(values, envelope, [alice], signer.verifier), image.values)

    def test_a_perturber_that_gives_no_field_protects_nothing(self, alice: HpkeIdentity) -> None:
        class Broken(NoiseMarker):
            def perturb(self, *arguments: Any) -> NDArray[np.float32]:
                return super().perturb(*arguments) * np.float32(np.nan)

        with pytest.raises(ValueError, match="the perturber gave NaN"):
            protect_bytes(samples.png(), "a.png", [alice.recipient], Broken(), FAST)


class TestSelfCheck:
    """A file that would not come back byte for byte is never given out."""

    def test_of_the_written_samples(self, alice: HpkeIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
        carry = NiftiCarrier.carry
        monkeypatch.setattr(NiftiCarrier, "carry", lambda s, d, o, v, e: carry(s, d, o, o.image.values, e))
        with pytest.raises(UnsupportedImageError, match="would not keep the protected samples"):
            protect_bytes(samples.nifti(), "a.nii", [alice.recipient], NoiseMarker(), FAST)

    def test_of_the_restored_file(self, alice: HpkeIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
        rebuild = NiftiCarrier.rebuild
        monkeypatch.setattr(NiftiCarrier, "rebuild", lambda s, shell, v: rebuild(s, shell, v) + b"\0")
        with pytest.raises(UnsupportedImageError, match="cannot be restored byte for byte"):
            protect_bytes(samples.nifti(), "a.nii", [alice.recipient], NoiseMarker(), FAST)


class TestRecordSize:
    @staticmethod
    def slice_512() -> bytes:
        """pydicom's CT resampled to 512 x 512, with the noise that interpolation took away."""
        data_set = pydicom.dcmread(io.BytesIO(samples.ct()))
        pixels = data_set.pixel_array.astype(np.float32)
        large = np.asarray(Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC))
        noisy = large + np.random.default_rng(0).normal(0, 12, large.shape)
        data_set.Rows = data_set.Columns = 512
        data_set.PixelSpacing = [float(v) / 4 for v in data_set.PixelSpacing]
        data_set.PixelData = np.rint(noisy).clip(0, 4095).astype("<i2").tobytes()
        out = io.BytesIO()
        data_set.save_as(out)
        return out.getvalue()

    @pytest.mark.parametrize("region", ["auto", "none"])
    def test_at_most_24_kb_for_a_slice(self, region: Any) -> None:
        """Levels drawn evenly are the worst that a generator can do; the record still keeps to its limit."""
        alice = generate_identity()  # hybrid, the default, has the longest wrapped keys
        source = self.slice_512()
        options = ProtectOptions(BLUNT, style="invisible", region=region)
        made = protect_bytes(source, "ct.dcm", [alice.recipient], NoiseMarker(), options)
        held = carrier_for(made.data, "").open_protected(made.data)
        assert held.values.shape == (1, 512, 512, 1) and held.values.dtype == np.int16
        record = read_record(made.envelope, held.values, [alice])
        assert record.mark is not None and record.mark.field is not None
        assert (record.mark.field.scales > 0).mean() > 0.5
        assert len(made.envelope) <= 24 * 1024
        assert len(made.data) - len(source) <= 25 * 1024
        assert remove_bytes(made.data, [alice]).data == source
