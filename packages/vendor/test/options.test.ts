import { invalidOption, list, optionTable, text, whole, wholeThat } from '@kvx/vendor'
import * as v from 'valibot'
import { expect, test } from 'vitest'

const schema = v.strictObject({
  threads: v.optional(whole(1, 8)),
  batch: v.optional(wholeThat((n) => n === -1 || n > 0, 'must be -1 or more than 0')),
  names: v.optional(v.array(text)),
  path: v.optional(text),
})

const read = optionTable('engine', schema, {
  threads: { variables: ['KVX_ENGINE_THREADS', 'OTHER_THREADS'], parse: Number },
  batch: { variables: ['KVX_ENGINE_BATCH'], parse: Number },
  names: { variables: ['KVX_ENGINE_NAMES'], parse: list },
  path: { variables: ['KVX_ENGINE_PATH'] },
})

test('an option that is given goes before its variables, and the first variable before the later ones', () => {
  const env = { KVX_ENGINE_THREADS: '2', OTHER_THREADS: '3', KVX_ENGINE_NAMES: 'a,b' }
  expect(read(undefined, env)).toEqual({ threads: 2, names: ['a', 'b'] })
  expect(read({ threads: 4 }, env)).toEqual({ threads: 4, names: ['a', 'b'] })
  expect(read({}, { ...env, KVX_ENGINE_THREADS: '' }).threads).toBe(3)
})

test('an option that is given as undefined does not hide its variable', () => {
  expect(read({ path: undefined }, { KVX_ENGINE_PATH: '/opt' })).toEqual({ path: '/opt' })
})

test.each([
  [{ threads: 9 }, {}, "The option 'threads' of the backend 'engine' must be at most 8."],
  [{ threads: 1.5 }, {}, "The option 'threads' of the backend 'engine' must be a whole number."],
  [{ batch: 0 }, {}, "The option 'batch' of the backend 'engine' must be -1 or more than 0."],
  [{ names: ['a', ''] }, {}, "The option 'names' of the backend 'engine' must not be empty."],
  [{}, { OTHER_THREADS: 'many' }, 'The variable OTHER_THREADS must be a number.'],
  [{ threads: 1 }, { OTHER_THREADS: '0' }, 'The variable OTHER_THREADS must be at least 1.'],
  [
    { thread: 1 },
    {},
    "The backend 'engine' has no option 'thread'. It has: threads, batch, names, path.",
  ],
  [7, {}, "The options of the backend 'engine' must be an object."],
])('the options %j with the variables %j are refused by name', (options, env, message) => {
  expect(() => read(options, env)).toThrow(invalidOption(message))
  expect(() => read(options, env)).toThrow(
    expect.objectContaining({ code: 'ERR_KVX_INVALID_OPTION', phase: 'open' }) as Error,
  )
})
