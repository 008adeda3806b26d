/** Messages with other values, fields and elements in them. */
import type { FrameRandom } from '../random.ts'
import type { Template } from '../worlds/world.ts'
import { anything, near, texts } from './values.ts'

/** Something with places for values in it: an object, or an array by its indices. */
type Holder = Record<string, unknown>
type Place = readonly [holder: Holder, key: string]

/** A copy of a template with one to three edits, some of which take values from other templates. */
export function edited(
  random: FrameRandom,
  template: Template,
  templates: readonly Template[],
): Template {
  const message = clone(template) as Holder
  for (let edits = 1 + random.below(3); edits > 0; edits--) edit(random, message, templates)
  return message
}

function isHolder(value: unknown): value is Holder {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)
}

function clone(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(clone)
  if (!isHolder(value)) return value
  const copy: Holder = {}
  for (const key of Object.keys(value)) put(copy, key, clone(value[key]))
  return copy
}

/** Also under the name `__proto__`, which an assignment would not take for a field. */
function put(holder: Holder, key: string, value: unknown): void {
  if (key !== '__proto__') holder[key] = value
  else
    Object.defineProperty(holder, key, {
      value,
      writable: true,
      enumerable: true,
      configurable: true,
    })
}

/** Every place of a value inside a message. */
function places(value: Holder, found: Place[] = []): Place[] {
  for (const key of Object.keys(value)) {
    found.push([value, key])
    const inner = value[key]
    if (isHolder(inner)) places(inner, found)
  }
  return found
}

function edit(random: FrameRandom, message: Holder, templates: readonly Template[]): void {
  const all = places(message)
  if (all.length === 0) return
  // The fields of the message itself as often as all those of its cache.
  const [holder, key]: Place = random.chance(0.5)
    ? [message, random.one(Object.keys(message))]
    : random.one(all)
  const value = holder[key]
  switch (random.below(8)) {
    case 0:
      if (Array.isArray(holder)) holder.splice(Number(key), 1)
      else Reflect.deleteProperty(holder, key)
      return
    case 1:
      put(holder, key, anything(random))
      return
    case 2: {
      // The value of another place, of this message or another.
      const [from, name] = random.one(places(random.one(templates) as Holder))
      put(holder, key, clone(from[name]))
      return
    }
    case 3:
      // One more field, or one more element.
      if (Array.isArray(holder)) holder.push(clone(random.one(holder)))
      else put(holder, random.one(texts), anything(random))
      return
    case 4: {
      const [other, name] = random.one(all)
      const held = other[name]
      if (typeof held !== 'object' && typeof value !== 'object') {
        put(other, name, value)
        put(holder, key, held)
      }
      return
    }
    default:
      put(holder, key, near(random, value))
  }
}
