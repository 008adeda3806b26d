import { isIP } from 'node:net'

/** How one process of a deployment reaches another, as text and in parts. */
export function formatEndpoint(host: string, port: number): string {
  return `tcp://${host.includes(':') ? `[${host}]` : host}:${port}`
}

/** Host and port of `tcp://host:port` or `tcp://[v6]:port`; undefined when it is neither. */
export function parseEndpoint(endpoint: string): { host: string; port: number } | undefined {
  const match = /^tcp:\/\/(?:\[([^[\]]+)\]|([^:/[\]\s]+)):(\d{1,5})$/.exec(endpoint)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || port > 65_535 || !isHost(host)) return undefined
  if (match?.[1] !== undefined && isIP(host) !== 6) return undefined
  return { host, port }
}

const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/i

/** Whether this is a host name (RFC 1123), an IPv4 address, or an IPv6 address without brackets. */
export function isHost(text: unknown): text is string {
  if (typeof text !== 'string' || text.length > 253) return false
  if (isIP(text) !== 0) return true
  const labels = text.split('.')
  // A name that ends in a number is an IPv4 address gone wrong.
  return labels.every((part) => label.test(part)) && !/^\d+$/.test(labels.at(-1) ?? '')
}
