/** Hosts as they are written in options, URLs and headers. */
import { BlockList, isIP } from 'node:net'

/** A host as it stands in a URL: IPv6 in brackets. */
export function urlHost(host: string): string {
  return host.includes(':') && !host.startsWith('[') ? `[${host}]` : host
}

/** A host as the system takes it: IPv6 without brackets. */
export function bareHost(host: string): string {
  return host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8)
loopback.addAddress('::1', 'ipv6')
loopback.addSubnet('::ffff:127.0.0.0', 104, 'ipv6')

/** Whether only this machine reaches it: a loopback address, or a name that always means one. */
export function isLoopback(host: string): boolean {
  const name = bareHost(host).toLowerCase()
  const family = isIP(name)
  if (family !== 0) return loopback.check(name, family === 6 ? 'ipv6' : 'ipv4')
  return name === 'localhost' || name.endsWith('.localhost')
}

/** The host of a `Host` header or of an origin, in lower case and without its port; undefined when it is none. */
export function hostOf(authority: string): string | undefined {
  const match = /^(\[[\da-f:.]+\]|[^\s:/?#@[\]\\]+?)\.?(?::\d*)?$/i.exec(authority)
  return match?.[1] === undefined ? undefined : bareHost(match[1].toLowerCase())
}
