import type { ByteSource } from './formats/source.ts'
import { fileSource } from './source.ts'
import { openSibling, type OpenedFile } from './walk.ts'

/** Where an image lies: a file, or a part of one (a member of an OVA). */
export interface ImageWindow {
  file: OpenedFile
  /** bytes */
  offset: number
  size: number
  /** true: the whole file */
  whole: boolean
  /** for messages */
  label: string
  source: ByteSource
  /** opens what a descriptor refers to by a plain name: a file in the same folder, or a member of the same archive */
  sibling(name: string): Promise<ImageWindow>
}

/** The whole of an open file. Siblings are files in its folder; `admit` is told of each as soon as it is open, checks it and MUST see that it is closed. */
export function wholeFile(file: OpenedFile, admit: (f: OpenedFile) => Promise<void>): ImageWindow {
  return {
    file,
    offset: 0,
    size: file.stat.size,
    whole: true,
    label: file.path,
    source: fileSource(file.handle, file.stat.size),
    sibling: async (name) => {
      const next = await openSibling(file, name)
      await admit(next)
      return wholeFile(next, admit)
    },
  }
}
