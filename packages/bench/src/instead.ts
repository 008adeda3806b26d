/** The same object but for one method; its other methods still see the object itself. */
export function instead<T extends object>(target: T, name: keyof T, replacement: unknown): T {
  return new Proxy(target, {
    get(one, key): unknown {
      if (key === name) return replacement
      const value: unknown = Reflect.get(one, key, one)
      return typeof value === 'function' ? (value.bind(one) as unknown) : value
    },
  })
}
