/**
 * libuv, from which Node has its names, knows none for what only some file systems say, and calls it "Unknown system error -116"
 * (errno(3)): a file that another NFS client removed, a quota that is used up, a damaged file system.
 */
const UNNAMED = new Map<unknown, string>([
  [-116, 'ESTALE'],
  [-122, 'EDQUOT'],
  [-117, 'EUCLEAN'],
])

/** The name of a system error, such as ENOENT; the `code` of any other that has one, else ''. */
export function errno(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('code' in error)) return ''
  return ('errno' in error && UNNAMED.get(error.errno)) || String(error.code)
}

/**
 * Opens and reads again what another NFS client removed or replaced between our open and our read: then the name tells what is there
 * now, or that nothing is.
 */
export async function unlessStale<T>(look: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await look()
    } catch (error) {
      if (errno(error) !== 'ESTALE' || tries === 3) throw error
    }
  }
}
