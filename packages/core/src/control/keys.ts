import { createPrivateKey, createPublicKey, hkdfSync } from 'node:crypto'
import { KvxError } from '@kvx/contract'

/** One X25519 key pair as libzmq wants it: 40 characters of Z85 each. */
export interface CurveKeys {
  readonly publicKey: string
  readonly secretKey: string
}

/** One pair for every server socket of a deployment, another for every client socket. */
export interface DeploymentKeys {
  readonly server: CurveKeys
  readonly client: CurveKeys
}

/** Who records a handshake can test guesses of the token without asking anyone. */
const minTokenBytes = 16

/**
 * The one rule about the deployment's token, which is returned: text of 16 bytes or more. That it is random is up to who makes it.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION`, which never holds the token
 */
export function checkToken(token: unknown): string {
  const wrong =
    typeof token !== 'string'
      ? `The token must be a string, got ${typeof token}.`
      : Buffer.byteLength(token) < minTokenBytes
        ? `The token must have at least ${minTokenBytes} bytes, got ${Buffer.byteLength(token)}: a shorter one can be guessed.`
        : undefined
  if (typeof token === 'string' && wrong === undefined) return token
  throw new KvxError(
    'ERR_KVX_INVALID_OPTION',
    `${wrong} Give all processes of the deployment the same random secret: openssl rand -hex 32`,
    { phase: 'open' },
  )
}

/**
 * Both key pairs of a deployment from its token, which itself is never sent.
 *
 * @throws KvxError `ERR_KVX_INVALID_OPTION` as `checkToken`
 */
export function deploymentKeys(token: string): DeploymentKeys {
  checkToken(token)
  return {
    server: keyPair(token, 'kvx/1 control server'),
    client: keyPair(token, 'kvx/1 control client'),
  }
}

/** What precedes the 32 bytes of an X25519 private key in PKCS #8 (RFC 8410). */
const pkcs8Prefix = Buffer.from('302e020100300506032b656e04220420', 'hex')

function keyPair(token: string, label: string): CurveKeys {
  const secret = Buffer.from(hkdfSync('sha256', token, 'kvx', label, 32))
  const key = createPrivateKey({
    key: Buffer.concat([pkcs8Prefix, secret]),
    format: 'der',
    type: 'pkcs8',
  })
  const spki = createPublicKey(key).export({ format: 'der', type: 'spki' })
  return { publicKey: z85(spki.subarray(-32)), secretKey: z85(secret) }
}

const z85Digits =
  '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#'

/** ZeroMQ's base 85 (RFC 32/Z85). The length must be a multiple of 4. */
export function z85(bytes: Uint8Array): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let text = ''
  for (let offset = 0; offset < bytes.length; offset += 4) {
    const word = view.getUint32(offset)
    for (let place = 85 ** 4; place >= 1; place /= 85) {
      text += z85Digits.charAt(Math.floor(word / place) % 85)
    }
  }
  return text
}
