/** The pictures that were made, kept in the browser. Where it keeps nothing, they last as long as the page. */

const LIMIT = 200;
const STORE = "pictures";

let database;

function open() {
  database ??= new Promise((resolve, reject) => {
    const opening = indexedDB.open("llamagen-playground", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
  return database;
}

/** Runs `work(store)` in one transaction; resolves to its request's result when all is written. */
async function transact(mode, work) {
  try {
    const transaction = (await open()).transaction(STORE, mode);
    const request = work(transaction.objectStore(STORE));
    return await new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } catch (error) {
    console.warn("history is not kept:", error);
  }
}

/** All pictures, oldest first. */
export async function load() {
  return (await transact("readonly", (store) => store.getAll())) ?? [];
}

/** Keeps a picture, and forgets the oldest ones beyond the limit. */
export function add(picture) {
  return transact("readwrite", (store) => {
    store.put(picture);
    store.getAllKeys().onsuccess = ({ target }) => {
      for (const id of target.result.slice(0, -LIMIT)) store.delete(id);
    };
  });
}

export function remove(pictures) {
  return transact("readwrite", (store) => {
    for (const { id } of pictures) store.delete(id);
  });
}
