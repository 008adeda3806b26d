/** Least common multiple of two positive integers. */
export function lcm(a: number, b: number): number {
  return (a / gcd(a, b)) * b
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b)
}
