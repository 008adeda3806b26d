/**
 * Does something `count` times, `lanes` at once; a lane begins the next one when it has ended the one before.
 * @returns the results in the order in which they were begun
 */
export async function inLanes<T>(
  lanes: number,
  count: number,
  work: (number: number, lane: number) => Promise<T>,
): Promise<T[]> {
  const results: T[] = []
  let next = 0
  await Promise.all(
    Array.from({ length: Math.min(lanes, count) }, async (_, lane) => {
      for (let number = next++; number < count; number = next++) {
        results[number] = await work(number, lane)
      }
    }),
  )
  return results
}
