/**
 * The prefix cache: pages with the beginnings of prompts that were computed before, for prompts that begin alike. A tree, each
 * node of which is one whole page; its way from the root spells the tokens up to that page.
 *
 * Only what was computed as a prompt is kept, never what an answer went on with: a token that is evaluated by itself is rounded
 * otherwise than the same token in a chunk, and an answer must not depend on what others have asked before.
 */
import type { Lease } from '@kvx/core'

interface Node {
  /** Of its tree. */
  readonly root: Node | undefined
  readonly parent: Node | undefined
  /** The tokens of its page. */
  readonly key: string
  readonly children: Map<string, Node>
  /** Of the root there is none. */
  readonly lease: Lease | undefined
  /** Requests that use it. Whoever uses a node uses all on the way to it. */
  users: number
}

/** The beginning of a prompt that is cached. Its pages stay as they are until it is released. */
export class Prefix {
  readonly pages: number[] = []
  tokens = 0
  /** Where it ends. */
  node: Node

  constructor(root: Node) {
    this.node = root
  }
}

export class PrefixCache {
  readonly #pageTokens: number
  readonly #onIdle: () => void
  /** Those that nobody uses and nothing follows, first who has been so for longest. */
  readonly #leaves = new Set<Node>()
  #root = rootNode()
  #idle = 0

  /** @param onIdle is called when pages have become idle */
  constructor(pageTokens: number, onIdle: () => void) {
    this.#pageTokens = pageTokens
    this.#onIdle = onIdle
  }

  /** Pages that nobody uses: `evict` would give them back. */
  get idle(): number {
    return this.#idle
  }

  /** The longest cached beginning, of whole pages and at most so many tokens. It has to be released. */
  match(tokens: readonly number[], most: number): Prefix {
    const prefix = new Prefix(this.#root)
    for (const key of this.#keys(tokens, 0, most)) {
      const next = prefix.node.children.get(key)
      if (!next) break
      this.#enter(prefix, next)
    }
    return prefix
  }

  /**
   * Keeps the whole pages that follow a beginning. Of those that the cache does not have already it takes the leases; all of
   * them belong to the prefix from now on.
   *
   * @param tokens of the prompt
   * @param pages those that follow the prefix
   * @param lease has these pages
   */
  keep(prefix: Prefix, tokens: readonly number[], pages: ArrayLike<number>, lease: Lease): void {
    let at = 0
    for (const key of this.#keys(tokens, prefix.tokens, tokens.length)) {
      const page = pages[at++]
      if (page === undefined) return
      const { node } = prefix
      let next = node.children.get(key)
      if (!next) {
        const root = node.root ?? node
        next = {
          root,
          parent: node,
          key,
          children: new Map(),
          lease: lease.split([page]),
          users: 0,
        }
        node.children.set(key, next)
        this.#idle++
      }
      this.#enter(prefix, next)
    }
  }

  release(prefix: Prefix): void {
    for (let node: Node | undefined = prefix.node; node?.lease; node = node.parent) {
      if (--node.users > 0) continue
      this.#idle++
      if (node.children.size > 0) continue
      // What was flushed while it was used is given back now.
      if (node.root === this.#root) this.#leaves.add(node)
      else this.#remove(node)
    }
    this.#onIdle()
  }

  /** Gives so many idle pages back to their pool, or all that there are. */
  evict(count: number): void {
    for (const node of this.#leaves) {
      if (count-- <= 0) return
      this.#remove(node)
    }
  }

  /** Forgets all. What is used is given back when its last user has released it. */
  flush(): void {
    this.evict(Infinity)
    this.#root = rootNode()
  }

  #enter(prefix: Prefix, node: Node): void {
    if (node.users++ === 0) {
      this.#idle--
      this.#leaves.delete(node)
    }
    prefix.pages.push(...(node.lease?.pages ?? []))
    prefix.tokens += this.#pageTokens
    prefix.node = node
  }

  /** A leaf that nobody uses. Its parent may become one. */
  #remove(node: Node): void {
    this.#leaves.delete(node)
    this.#idle--
    const { parent } = node
    parent?.children.delete(node.key)
    if (parent?.lease && parent.users === 0 && parent.children.size === 0) this.#leaves.add(parent)
    node.lease?.release()
  }

  /** Of the whole pages from one token to another. */
  *#keys(tokens: readonly number[], from: number, to: number): Generator<string, void> {
    const size = this.#pageTokens
    for (let start = from; start + size <= to; start += size) {
      yield tokens.slice(start, start + size).join()
    }
  }
}

function rootNode(): Node {
  return {
    root: undefined,
    parent: undefined,
    key: '',
    children: new Map(),
    lease: undefined,
    users: 0,
  }
}
