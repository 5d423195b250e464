//! Secure params (drp-api §8): the client boxes the value for the object's public key, so that neither a
//! log nor an answer ever holds it in clear.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crypto_box::aead::{Aead as _, AeadCore as _, OsRng};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde_json::{Value, json};

use crate::CliError;

/// Boxes a value (NaCl box, X25519 and XSalsa20-Poly1305) under a fresh key.
///
/// `public_key` is what `GET …/pubkey` gave: 32 bytes in base64.
pub(crate) fn seal(value: &Value, public_key: &Value) -> Result<Value, CliError> {
    let bad = || CliError::text("the server's public key for secure params is unusable: it must be 32 bytes in base64");
    let bytes = public_key
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .ok_or_else(bad)?;
    let theirs = PublicKey::from(<[u8; 32]>::try_from(bytes).map_err(|_| bad())?);
    let ours = SecretKey::generate(&mut OsRng);
    let nonce = SalsaBox::generate_nonce(&mut OsRng);
    let payload = SalsaBox::new(&theirs, &ours)
        .encrypt(&nonce, value.to_string().as_bytes())
        .map_err(|_| CliError::text("the value could not be encrypted"))?;
    Ok(json!({
        "Key": STANDARD.encode(ours.public_key().as_bytes()),
        "Nonce": STANDARD.encode(nonce),
        "Payload": STANDARD.encode(payload),
    }))
}

/// A fresh secret key.
pub(crate) fn new_key() -> [u8; 32] {
    SecretKey::generate(&mut OsRng).to_bytes()
}

/// A key as text.
pub(crate) fn key_text(key: &[u8; 32]) -> String {
    STANDARD.encode(key)
}

/// The key that a text holds.
pub(crate) fn key_of_text(text: &str) -> Option<[u8; 32]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// The public key of a secret one, as the server gives those of objects.
pub(crate) fn public_of(secret: &[u8; 32]) -> Value {
    STANDARD.encode(SecretKey::from(*secret).public_key().as_bytes()).into()
}

/// Opens what [`seal`] boxed for the public key of `secret`.
pub(crate) fn open(boxed: &Value, secret: &[u8; 32]) -> Result<Value, CliError> {
    let bad = || CliError::text("a secure param cannot be opened with this key");
    let bytes = |name: &str| {
        boxed[name]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok())
            .ok_or_else(bad)
    };
    let theirs = PublicKey::from(<[u8; 32]>::try_from(bytes("Key")?).map_err(|_| bad())?);
    let nonce = <[u8; 24]>::try_from(bytes("Nonce")?).map_err(|_| bad())?;
    let clear = SalsaBox::new(&theirs, &SecretKey::from(*secret))
        .decrypt(&nonce.into(), bytes("Payload")?.as_slice())
        .map_err(|_| bad())?;
    serde_json::from_slice(&clear).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crypto_box::aead::AeadInPlace as _;

    fn bytes(value: &Value) -> Vec<u8> {
        STANDARD.decode(value.as_str().unwrap()).unwrap()
    }

    #[test]
    fn only_the_holder_of_the_key_reads_it() {
        let theirs = SecretKey::generate(&mut OsRng);
        let public = json!(STANDARD.encode(theirs.public_key().as_bytes()));
        let sealed = seal(&json!("hunter2"), &public).unwrap();
        assert!(!sealed.to_string().contains("hunter2"));
        let ours = PublicKey::from(<[u8; 32]>::try_from(bytes(&sealed["Key"])).unwrap());
        let nonce = bytes(&sealed["Nonce"]);
        let open = |payload: &[u8]| SalsaBox::new(&ours, &theirs).decrypt(nonce.as_slice().into(), payload);
        let mut payload = bytes(&sealed["Payload"]);
        assert_eq!(open(&payload).unwrap(), b"\"hunter2\"");
        // As NaCl and Go's nacl/box lay it out: the authenticator first.
        let mut text = payload[16..].to_vec();
        SalsaBox::new(&ours, &theirs)
            .decrypt_in_place_detached(nonce.as_slice().into(), b"", &mut text, payload[..16].into())
            .unwrap();
        assert_eq!(text, b"\"hunter2\"");
        payload[0] ^= 1;
        assert!(open(&payload).is_err());
        assert_ne!(
            seal(&json!("hunter2"), &public).unwrap(),
            sealed,
            "a fresh key each time"
        );
    }

    #[test]
    fn what_is_boxed_for_a_key_file_opens_with_it() {
        let key = new_key();
        let sealed = seal(&json!({"a": 1}), &public_of(&key)).unwrap();
        assert_eq!(
            open(&sealed, &key_of_text(&key_text(&key)).unwrap()).unwrap(),
            json!({"a": 1})
        );
        assert!(open(&sealed, &new_key()).is_err());
    }

    #[test]
    fn refuses_what_is_no_key() {
        for bad in [json!(null), json!("!"), json!("AAAA")] {
            assert!(seal(&json!(1), &bad).unwrap_err().to_string().contains("32 bytes"));
        }
    }
}
